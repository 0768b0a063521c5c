"""BibTeX of an objective's source, and of the library.

A card that has no BibTeX of its own has a line that names its source. What that line says becomes an entry; what it does not say is left
out rather than guessed, and a comment says so.
"""

import re
import unicodedata

import lossmith
from lossmith.card import Card, get

AUTHORS_AND_YEAR = re.compile(r"^(?P<authors>[^\"(]+?)\s+(?P<year>(?:18|19|20)\d\d)\b")
ARXIV = re.compile(r"arXiv:\s*(?P<id>\d{4}\.\d{4,5}|[a-z-]+(?:\.[A-Z]{2})?/\d{7})", re.IGNORECASE)
DOI = re.compile(r"\b(?:doi:\s*)?(?P<doi>10\.\d{4,9}/[^\s,;]+)", re.IGNORECASE)
TITLE = re.compile(r"(?:^|\s)['\"‘“](?P<title>.{3,}?)['\"’”](?=[,.;\s]|$)")
OTHERS = re.compile(r"\bet al\b\.?")
BETWEEN = re.compile(r",|&|\band\b")

SPECIAL = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$"}


def of(name: str) -> str:
    """The BibTeX of an objective's source, by the objective's name or alias."""
    card = get(name)
    return card.bibtex.strip() or entries(card)


def own() -> str:
    """The library's own entry."""
    return "\n".join(
        [
            "@software{lossmith,",
            "  author  = {{The lossmith developers}},",
            "  title   = {lossmith: training objectives for PyTorch, held to their word},",
            f"  version = {{{lossmith.__version__}}},",
            "  license = {Apache-2.0},",
            "}",
        ]
    )


def entries(card: Card) -> str:
    """Entries built from the source line, one for each work it names."""
    works = [work.strip() for work in card.source.split(";") if work.strip()]
    built = [entry(work) for work in works]
    return "\n\n".join([f"% {card.name}: built from the source line of its card; what that does not say is left out", *built])


def entry(work: str) -> str:
    """One work, "Zhang & Sabuncu 2018, 'Title', arXiv:1805.07836", as BibTeX."""
    named = AUTHORS_AND_YEAR.match(work)
    values: dict[str, str] = {}
    key = "source"
    if named:
        people = [person.strip() for person in BETWEEN.split(OTHERS.sub("", named["authors"])) if person.strip()]
        if OTHERS.search(named["authors"]):
            people.append("others")
        values["author"] = " and ".join(map(_escaped, people))
        values["year"] = named["year"]
        key = _ascii(people[0]) + named["year"]
    if title := TITLE.search(work):
        values["title"] = f"{{{_escaped(title['title'])}}}"
    if arxiv := ARXIV.search(work):
        values |= {"eprint": arxiv["id"], "archiveprefix": "arXiv"}
    if doi := DOI.search(work):
        values["doi"] = doi["doi"].rstrip(".")
    values["note"] = _escaped(work)
    width = max(map(len, values))
    return "\n".join([f"@misc{{{key},", *(f"  {name.ljust(width)} = {{{value}}}," for name, value in values.items()), "}"])


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in text)


def _ascii(text: str) -> str:
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z]", "", plain.split()[-1] if plain.split() else "").lower() or "source"
