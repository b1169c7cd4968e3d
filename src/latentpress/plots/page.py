"""An inspection as one HTML page that needs nothing else: style inside, pictures as data, no script."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping

from latentpress.inspection import Inspection
from latentpress.plots.pictures import GENERATOR, drawn_tokens, undrawable
from latentpress.plots.texts import (
    COLOURS,
    SHADES,
    capacity_part,
    count,
    ratio_colour,
    ratio_name,
    salience_part,
    shown_windows,
    span,
    visible,
    window_part,
)

_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1160px; padding: 1rem 1.5rem 4rem; background: #fff; color: #1b1b1b;
  font: 16px/1.5 system-ui, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .3rem; border-top: 1px solid #ddd; padding-top: 1.1rem; }
h3 { font-size: .95rem; margin: 0 0 .3rem; }
small, .note { color: #555; font-weight: normal; }
.scroll { max-height: 26rem; overflow: auto; border: 1px solid #ddd; padding: .6rem .8rem; }
.small { max-height: 18rem; margin-top: .8rem; padding: 0; }
.window { border-left: 8px solid; padding-left: .7rem; margin-bottom: 1.1rem; }
.text { margin: 0 0 1rem; line-height: 1.75; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext; }
.text span, .legend span { border-radius: 3px; padding: .12em 0; box-decoration-break: clone;
  -webkit-box-decoration-break: clone; }
.legend { margin: .5rem 0; font-size: .9rem; }
.legend span { padding: .15em .5em; margin-right: 2px; border: 1px solid #ccc; }
.none { color: #767676; text-decoration: underline dotted; }
.key { display: inline-block; border-left: 8px solid; padding: 0 .9rem 0 .4rem; }
.lists { display: flex; flex-wrap: wrap; gap: 1rem 1.5rem; margin-top: .8rem; }
table { border-collapse: collapse; font-size: .85rem; }
caption { text-align: left; font-weight: 600; padding: .2rem 0; }
th, td { text-align: left; padding: .12rem .7rem .12rem .3rem; border-bottom: 1px solid #eee; vertical-align: top; }
th { position: sticky; top: 0; background: #f6f6f6; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
mark { background: #ffb066; color: inherit; border-radius: 3px; }
img { max-width: 100%; height: auto; display: block; margin: .6rem 0; }
"""


def page(shown: Inspection, document: str, pictures: Mapping[str, bytes]) -> str:
    """The page.

    Args:
        shown: what the press did.
        document: what to call the text.
        pictures: as `pictures.draw` gives them.
    """
    parts = [_latents(shown), _capacity(shown), _layers(shown, pictures), _plan(shown, pictures), _salience(shown)]
    parts.append(_left_out(shown))
    rules = [f".s{i} {{ background: {colour}; }}" for i, colour in enumerate(COLOURS)]
    rules += [f".k{i} {{ background: {colour}; }}" for i, colour in enumerate(SHADES)]
    title = f"What {visible(shown.press)} did with <bdi>{visible(document)}</bdi>"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="generator" content="{GENERATOR}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{visible(document)}, {visible(shown.press)}</title>\n"
        f"<style>{_STYLE}{chr(10).join(rules)}\n</style></head>\n"
        f"<body><h1>{title}</h1>\n{_summary(shown)}\n{''.join(parts)}</body></html>\n"
    )


def left_out(shown: Inspection) -> list[str]:
    """What the page has no part for, and why, in a line each."""
    lines = []
    compressor = f"the method of this press ({shown.compressor})"
    if shown.capacity is None:
        lines.append(f"Sender capacities: {compressor} gives tokens none.")
    if shown.layers is None:
        lines.append(f"Depth weights: {compressor} does not mix layers.")
    if shown.plan is None:
        lines.append(f"Transmission plan: {compressor} has none.")
    if shown.salience is None:
        why = {"none": "this press hands no embeddings over", "mean": "all tokens of a slot weigh the same"}
        lines.append(f"Weights of the tokens' own embeddings: {why[shown.residual]} (residual: {shown.residual}).")
    return lines


def _summary(shown: Inspection) -> str:
    latents = len(shown.spans)
    ratios = Counter(ratio_name(window.ratio) for window in shown.windows)
    keys = "".join(
        f'<span class="key" style="border-color:{ratio_colour(float(name))}">'
        f"ratio {name}: {count(times, 'window')}</span>"
        for name, times in sorted(ratios.items(), key=lambda pair: float(pair[0]))
    )
    return (
        f"<p>{count(shown.tokens, 'token')} of text became {count(latents, 'latent')}, "
        f"{shown.tokens / latents:.1f} tokens a latent. A latent is a vector; the language model that answers "
        "questions reads the latents in place of the text.</p>"
        f"<p>Method: {visible(shown.compressor)} ({visible(shown.method)}). The text was read in "
        f"{count(len(shown.windows), 'window')}, each with its ratio: {keys}</p>"
        '<p class="note">A token is a word or a part of one. Tokens are counted from 0, and “tokens 0 to 4” are the '
        "four before token 4; windows, slots and segments are counted from 1.</p>"
    )


def _section(title: str, sentence: str, body: str) -> str:
    return f"<section><h2>{title}</h2><p>{sentence}</p>{body}</section>\n"


def _left_out(shown: Inspection) -> str:
    lines = left_out(shown)
    if not lines:
        return ""
    items = "".join(f"<li>{line}</li>" for line in lines)
    return f'<section><h2>What this page leaves out</h2><ul class="note">{items}</ul></section>\n'


def _latents(shown: Inspection) -> str:
    sentence = (
        "Each patch of colour is a slot, the tokens that one latent stands for; the colours only tell neighbours "
        "apart. Point at a patch for its number. The bar beside a window is darker the harder it was compressed."
    )
    if shown.slots is None:
        sentence = "Each window has a colour: any of its latents may carry any of its text."
    elif (shown.slots < 0).any():
        sentence += " Grey text with dots below is in no slot: " + (
            "latents carry what the states of the tokens behind it know of it."
            if shown.encodes
            else "it is not handed over."
        )
    if shown.plan is not None:
        sentence += " With this method a slot also takes from other tokens of its segment: see the plan below."
    return _section("Which latent carries which text", sentence + _limit(shown), window_part(shown))


def _limit(shown: Inspection) -> str:
    windows = shown_windows(shown)
    if len(windows) == len(shown.windows):
        return ""
    last = windows[-1][0]
    return (
        f" Shown are the first {len(windows):,} of {len(shown.windows):,} windows, {last.start + last.tokens:,} of "
        f"{shown.tokens:,} tokens."
    )


def _capacity(shown: Inspection) -> str:
    if shown.capacity is None:
        return ""
    sentence = (
        "Orange tokens were given more room in the latents than an equal share of their segment, blue ones less; the "
        "lists below hold the extremes of the whole text."
    )
    return _section("What was kept and what was let go", sentence + _limit(shown), capacity_part(shown))


def _layers(shown: Inspection, pictures: Mapping[str, bytes]) -> str:
    if shown.layers is None:
        return ""
    sentence = (
        "Each column is a token, each row a layer of the language model, from the embeddings at the top to the last "
        "layer; the darker, the more of the token's content was taken from that layer, and a column adds up to 100%. "
        f"Shown are {span(*drawn_tokens(shown))}{_of_segment(shown)}."
    )
    means = f"<p>The mean of all {shown.tokens:,} tokens: the higher a bar, the more its layer was read.</p>"
    heat = _picture(pictures, "layers.png", "heat map of layer weights by token") + _glyphs(shown)
    return _section(
        "Which layers were read",
        sentence,
        heat + means + _picture(pictures, "layer-means.png", "mean weight of each layer"),
    )


def _plan(shown: Inspection, pictures: Mapping[str, bytes]) -> str:
    if shown.plan is None:
        return ""
    plan = shown.plan
    slots = plan.plan.shape[1]
    sentence = (
        f"Each column is a token of segment {plan.number:,} of {shown.segments:,}, each row one of its "
        f"{count(slots, 'slot')}; the darker, the more of what the slot holds comes from that token, and a whole row "
        f"adds up to 100%. Shown are {span(*drawn_tokens(shown))}{_of_segment(shown)}."
    )
    if plan.own is not None:
        even = f"spread evenly it would be {100 / slots:.0f}%"
        sentence += f" {100 * plan.own:.0f}% of the whole goes from tokens to the slot that they lie in; {even}."
    heat = _picture(pictures, "plan.png", "heat map of the plan, tokens by slots") + _glyphs(shown)
    return _section("Which token went into which slot", sentence, heat)


def _salience(shown: Inspection) -> str:
    if shown.salience is None:
        return ""
    sentence = (
        "Beside what the method makes, each latent holds a mean of its tokens' own embeddings; orange tokens weigh "
        "more in it than an equal share of their slot, blue ones less, and the table names the heaviest of each slot."
    )
    return _section("Which word of each slot weighs most", sentence + _limit(shown), salience_part(shown))


def _of_segment(shown: Inspection) -> str:
    start, end = drawn_tokens(shown)
    if shown.plan is None:
        return f", the beginning of the text, of {shown.tokens:,}"
    if end == shown.plan.end:
        return f", segment {shown.plan.number:,} of {shown.segments:,} (--segment N chooses another)"
    return f", the first {end - start:,} of the {shown.plan.end - start:,} tokens of segment {shown.plan.number:,}"


def _glyphs(shown: Inspection) -> str:
    legend = (
        "Below each column stands its token: ␣ is white space, ↵ a new line, a middle dot the rest of the character "
        "before it."
    )
    pieces = undrawable(shown)
    if pieces:
        listed = ", ".join(f"#{piece.start} <bdi>{visible(piece.text)}</bdi>" for piece in pieces)
        legend += f" Numbers stand for what the picture’s font lacks: {listed}."
    return f'<p class="note">{legend}</p>'


def _picture(pictures: Mapping[str, bytes], name: str, alt: str) -> str:
    data = base64.b64encode(pictures[name]).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{alt}">'
