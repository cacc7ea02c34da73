"""What the documents tell of residents, shops and feasts of an invented valley, and how one may ask for it.

A statement stands beside the question that uses its words; further questions ask the same in other words. In the
texts {n} is who or what it is about (after the first sentence of an entry also "She" or "It"), {p} the same as an owner
("Her"), {a} the answer.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matter:
    """One thing that can be said: `kind` names the list that answers come from."""

    name: str
    kind: str
    statements: tuple[tuple[str, str], ...]
    other_words: tuple[str, ...]


RESIDENT = (
    Matter(
        "home",
        "town",
        (
            ("{n} lives in {a}.", "Where does {n} live?"),
            ("{n} has a small house in {a}.", "In which town does {n} have a house?"),
            ("{p} home is in {a}.", "Where is the home of {n}?"),
        ),
        ("Which town does {n} call home?", "In what place can we visit {n}?"),
    ),
    Matter(
        "work",
        "job",
        (
            ("{n} works as {a}.", "What does {n} work as?"),
            ("{n} earns a living as {a}.", "As what does {n} earn a living?"),
        ),
        ("What is the job of {n}?", "What does {n} do for a living?"),
    ),
    Matter(
        "animal",
        "animal",
        (
            ("{n} keeps {a} as a pet.", "What pet does {n} keep?"),
            ("{p} pet is {a}.", "What is the pet of {n}?"),
        ),
        ("Which animal does {n} look after?", "What animal lives with {n}?"),
    ),
    Matter(
        "music",
        "instrument",
        (
            ("{n} plays {a}.", "What does {n} play?"),
            ("{n} plays {a} in the evening.", "What does {n} play in the evening?"),
        ),
        ("Which instrument belongs to {n}?", "On which instrument does {n} make music?"),
    ),
    Matter(
        "food",
        "food",
        (
            ("{n} likes to eat {a}.", "What does {n} like to eat?"),
            ("{p} favourite food is {a}.", "What is the favourite food of {n}?"),
        ),
        ("What food does {n} enjoy?", "Which food should we cook for {n}?"),
    ),
    Matter(
        "friend",
        "resident",
        (
            ("{p} best friend is {a}.", "Who is the best friend of {n}?"),
            ("{n} is a good friend of {a}.", "Who is a good friend of {n}?"),
        ),
        ("Whom does {n} like most of all?", "With whom does {n} spend the holidays?"),
    ),
    Matter(
        "birthday",
        "month",
        (
            ("{p} birthday is in {a}.", "In which month is the birthday of {n}?"),
            ("{n} has a birthday in {a}.", "When does {n} have a birthday?"),
        ),
        ("In what month does {n} turn a year older?", "When was {n} born?"),
    ),
    Matter(
        "age",
        "age",
        (
            ("{n} is {a} years old.", "How many years old is {n}?"),
            ("{n} has turned {a}.", "What age has {n} turned?"),
        ),
        ("How old is {n}?", "What is the age of {n}?"),
    ),
    Matter(
        "childhood",
        "town",
        (
            ("{n} grew up in {a}.", "Where did {n} grow up?"),
            ("{n} comes from {a}.", "Where does {n} come from?"),
        ),
        ("In which town was {n} a child?", "Which town is {n} from?"),
    ),
    Matter(
        "thing",
        "thing",
        (
            ("{n} owns {a}.", "What does {n} own?"),
            ("{n} always carries {a}.", "What does {n} always carry?"),
        ),
        ("Which thing belongs to {n}?", "What object does {n} have?"),
    ),
    Matter(
        "colour",
        "colour",
        (
            ("{p} favourite colour is {a}.", "What is the favourite colour of {n}?"),
            ("{n} likes the colour {a}.", "Which colour does {n} like?"),
        ),
        ("What colour does {n} like best?", "In which colour should we paint the door of {n}?"),
    ),
)

SHOP = (
    Matter("shop's town", "town", (("{n} is a shop in {a}.", "In which town is {n}?"),), ("Where is {n}?",)),
    Matter("goods", "goods", (("{n} sells {a}.", "What does {n} sell?"),), ("What can one buy at {n}?",)),
    Matter("owner", "resident", (("{n} belongs to {a}.", "To whom does {n} belong?"),), ("Who owns {n}?",)),
    Matter(
        "closed", "weekday", (("{n} is closed on {a}.", "When is {n} closed?"),), ("On which day is {n} not open?",)
    ),
)

FEAST = (
    Matter("month", "month", (("{n} is held in {a}.", "When is {n} held?"),), ("In which month is {n}?",)),
    Matter(
        "place",
        "town",
        (("{n} takes place in {a}.", "Where does {n} take place?"),),
        ("To which town must one go for {n}?",),
    ),
    Matter("leader", "resident", (("{n} is led by {a}.", "Who leads {n}?"),), ("Which person is the head of {n}?",)),
)

WOMEN = """
Bithe Bokse Cheske Dorpo Dulba Fimlo Fispi Gamhoso Genose Gomre Haski Hirga Jebruli Ketje Kishihi Kopega Kotna
Krelro Lukli Lulgu Mabro Melbo Momge Mutme Nargi Nethi Nibihe Posku Railwa Rasti Rikre Rumvi Saiwe Sendeto
Sepoki Sheme Solpu Spirfu Stange Stenru Tenle Tesvore Thifu Trejeve Vormo Wesja Wirkini Wotro
""".split()
MEN = """
Berart Bikber Boldor Bondom Chinus Dakbort Dasnen Dilwin Diror Drojok Dukrul Fahel Fudost Gerwol Geskak Gimris
Hakbel Hearban Hilpen Hongeam Honler Jasdil Jefond Juvobel Kasner Katrak Kofon Kulkak Lalor Lantum Lilsen Lokpum
Lolmur Mikgim Nerwon Nevem Nijur Nusbur Pearin Pebal Petlen Pikrir Rugom Saifor Tairvis Thembol Timfund Valkol
""".split()


def _listed(text: str) -> list[str]:
    """What stands between the commas of `text`."""
    return [" ".join(item.split()) for item in text.split(",")]


ANSWERS = {
    "town": _listed(
        """
        Winpin, Wamfor, Tealnat, Revahal, Trivat, Sarson, Rutkak, Thapert, Nokrait, Fankebo, Waitan, Vulburt
        """
    ),
    "job": _listed(
        """
        a baker, a farmer, a carpenter, a teacher, a tailor, a miller, a doctor, a painter, a gardener, a shepherd, a
        cook, a nurse, a postman, a weaver, a potter, a librarian, a clockmaker, a beekeeper, a roofer, a printer
        """
    ),
    "animal": _listed("a dog, a cat, a goat, a duck, a rabbit, a pony, an owl, a mouse, a parrot, a snail"),
    "instrument": _listed("the flute, the drum, the violin, the piano, the guitar, the trumpet, the harp, the cello"),
    "food": _listed(
        """
        bread, soup, cheese, honey, pancakes, pie, fish, cherries, porridge, nuts, plums, rice, dumplings, mushrooms
        """
    ),
    "month": _listed(
        """
        January, February, March, April, May, June, July, August, September, October, November, December
        """
    ),
    "age": _listed(
        """
        nineteen, twenty, thirty, forty, fifty, sixty, seventy, eighty, ninety, eighteen, seventeen, sixteen
        """
    ),
    "thing": _listed(
        """
        a map, a lamp, a silver spoon, an umbrella, a kite, a mirror, a blue cup, a knife, a bell, a telescope, a red
        scarf, a wooden horse, a compass
        """
    ),
    "colour": _listed("red, blue, green, white, black, yellow, brown, golden, grey, silver, purple, pink"),
    "weekday": _listed("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday"),
    "goods": _listed(
        """
        candles, boots, books, ropes, lamps, hats, seeds, paper, bread, soap, tea, carpets, clocks, baskets, knives,
        ribbons
        """
    ),
}

SHOPS = [
    f"the {name}"
    for name in _listed(
        """
        Crooked Lamp, Blue Kettle, Golden Snail, Old Anchor, Red Door, Green Basket, Sleepy Owl, Paper Boat
        """
    )
]
FEASTS = [
    f"the {name}"
    for name in _listed(
        """
        Feast of Kites, Night of Lamps, Day of Bells, Apple Fair, Race of Rafts, Dance of Masks
        """
    )
]
