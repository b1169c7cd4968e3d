"""Training data written by a teacher model: passages of a corpus to questions, answers and summaries.

    corpus -> passages -> requests -> teacher -> journal -> checks -> records

settings.py   what is asked about what, of whom, how patiently and for how much
passages.py   documents cut into passages of a length
likeness.py   language by script, texts and questions that say the same twice
corpus.py     corpora to distinct passages
prompts.py    the texts of the requests, from prompts.toml
requests.py   passages to requests, each with a key of its content
teachers.py   the contract of a teacher, and teachers by name
endpoint.py   a teacher behind an OpenAI-compatible address
local.py      a teacher on this machine
budget.py     requests and tokens that may be spent
journal.py    replies as they came, each kept before the next is asked for
asking.py     requests to replies: patience, concurrency, an early end
on_ray.py     the same on several machines
checks.py     what of a reply can be used
assembly.py   replies to records and rejects
card.py       what was made, in numbers
run.py        all of it
"""
