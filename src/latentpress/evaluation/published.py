"""What the two papers claim, with the figures that they publish.

ComprExIT's are means of EM and F1 over MRQA's six sets at x4, a 1B base model, single runs. The semi-dynamic paper
gives curves and no table, so most of its claims have no figure.
"""

from __future__ import annotations

from dataclasses import dataclass

SEMIDYNAMIC = "semi-dynamic (arXiv 2603.25926)"
COMPREXIT = "ComprExIT (arXiv 2602.03784)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A claim as it was published."""

    id: str
    """Name of the claim, which evidence refers to."""
    paper: str
    """Where it is made."""
    says: str
    """The claim in words."""
    figure: str
    """What was published for it."""
    above: float = 0.0
    """The claim holds where our difference is above this, in shares of one: what little or collapse mean is ours."""


CLAIMS = (
    Published(
        id="mean-pooling-over-last-tokens",
        paper=SEMIDYNAMIC,
        says="Mean pooling answers better than the hidden states of the last tokens.",
        figure="higher curve",
    ),
    Published(
        id="last-tokens-over-compression-tokens",
        paper=SEMIDYNAMIC,
        says="The hidden states of the last tokens answer better than compression tokens.",
        figure="higher curve",
    ),
    Published(
        id="several-ratios-cost-little",
        paper=SEMIDYNAMIC,
        says="Trained for several discrete ratios, a press answers nearly as well as one trained for a single ratio "
        "(here: loses less than 2 points).",
        figure="near-optimal",
        above=-0.02,
    ),
    Published(
        id="continuous-ratios-collapse",
        paper=SEMIDYNAMIC,
        says="Trained for continuous ratios, it collapses (here: loses more than 10 points to discrete ones).",
        figure="collapses",
        above=0.10,
    ),
    Published(
        id="semi-dynamic-over-fixed",
        paper=SEMIDYNAMIC,
        says="Ratios chosen for each text answer better than a fixed ratio that is the same on average.",
        figure="up to 4 points, at every ratio but the lowest",
    ),
    Published(
        id="gain-grows-with-variance",
        paper=SEMIDYNAMIC,
        says="That gain grows with the variance of the chosen ratios.",
        figure="rising curve",
    ),
    Published(
        id="comprexit-as-full-text",
        paper=COMPREXIT,
        says="At x4 it answers as well as the full text read with 32 trained prompt vectors (here: loses less than 2 "
        "points).",
        figure="66.6 to 66.7 F1, 52.3 to 55.7 EM",
        above=-0.02,
    ),
    Published(
        id="comprexit-over-icae",
        paper=COMPREXIT,
        says="ComprExIT answers better than ICAE.",
        figure="66.6 to 56.2 F1, 52.3 to 44.2 EM",
    ),
    Published(
        id="icae-over-500xcompressor",
        paper=COMPREXIT,
        says="ICAE answers better than 500xCompressor.",
        figure="56.2 to 17.5 F1, 44.2 to 10.2 EM",
    ),
    Published(
        id="icae-over-activation-beacon",
        paper=COMPREXIT,
        says="ICAE answers better than Activation Beacon.",
        figure="56.2 to 25.1 F1, 44.2 to 14.8 EM",
    ),
    Published(
        id="activation-beacon-over-500xcompressor",
        paper=COMPREXIT,
        says="Activation Beacon answers better than 500xCompressor.",
        figure="25.1 to 17.5 F1, 14.8 to 10.2 EM",
    ),
    Published(
        id="loss-without-transport",
        paper=COMPREXIT,
        says="Window attention in place of the transport plan answers worse.",
        figure="61.9 from 66.6 F1, 47.7 from 52.3 EM",
    ),
    Published(
        id="loss-with-embeddings-only",
        paper=COMPREXIT,
        says="The embedding layer alone answers worse than all layers.",
        figure="44.5 from 66.6 F1, 28.7 from 52.3 EM",
    ),
    Published(
        id="loss-with-best-single-layer",
        paper=COMPREXIT,
        says="The best single layer answers worse than all layers.",
        figure="63.9 from 66.6 F1, 49.3 from 52.3 EM",
    ),
    Published(
        id="loss-with-last-layer",
        paper=COMPREXIT,
        says="The last layer alone answers worse than all layers.",
        figure="49.4 from 66.6 F1, 36.1 from 52.3 EM",
    ),
)
"""Every claim, in the order of the papers."""
