"""What a model knows or can work out in one word: capitals, the capital of a city's state, sums, opposites.

For language models; where one cannot do a task, the accuracy in its row says so. Functions from one word to another are
those that Todd et al. 2024 (arXiv 2310.15213) study; `state_capital` needs a step in between, the state, which is the
example of Lindsey et al. 2025 ("On the Biology of a Large Language Model").

The two prompts of a pair differ in the one word that the answer hangs on. No such word is in both splits: one split
adds odd numbers, the other even ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from basisbench.pairs.sentence_frames import fill_frame, generator, interleave
from basisbench.protocols import Task
from basisbench.types import ContrastPair, Split

# Counterfactual words tried for each prompt: one fits if it has as many tokens.
COUNTERFACTUALS = 8

CAPITALS: Mapping[Split, str] = {
    "attribution": (
        "France:Paris Italy:Rome Russia:Moscow Egypt:Cairo Austria:Vienna Portugal:Lisbon Norway:Oslo Finland:Helsinki "
        "Hungary:Budapest Iran:Tehran Syria:Damascus Kenya:Nairobi Ghana:Accra Chile:Santiago Venezuela:Caracas "
        "Canada:Ottawa Thailand:Bangkok Indonesia:Jakarta Pakistan:Islamabad Nepal:Kathmandu Ukraine:Kyiv "
        "Bulgaria:Sofia Croatia:Zagreb Belgium:Brussels Jordan:Amman Ecuador:Quito Jamaica:Kingston Uganda:Kampala "
        "Tunisia:Tunis Sudan:Khartoum Latvia:Riga Iceland:Reykjavik Scotland:Edinburgh"
    ),
    "evaluation": (
        "Germany:Berlin Spain:Madrid Japan:Tokyo China:Beijing Greece:Athens Poland:Warsaw Ireland:Dublin "
        "Sweden:Stockholm Denmark:Copenhagen Turkey:Ankara Iraq:Baghdad Lebanon:Beirut Nigeria:Abuja Peru:Lima "
        "Cuba:Havana Australia:Canberra Vietnam:Hanoi Philippines:Manila Bangladesh:Dhaka Afghanistan:Kabul "
        "Romania:Bucharest Serbia:Belgrade Czechia:Prague Netherlands:Amsterdam Switzerland:Bern Israel:Jerusalem "
        "Uruguay:Montevideo Zimbabwe:Harare Senegal:Dakar Libya:Tripoli Estonia:Tallinn Wales:Cardiff"
    ),
}

STATE_CAPITALS: Mapping[Split, str] = {
    "attribution": (
        "Dallas:Austin Chicago:Springfield Miami:Tallahassee Seattle:Olympia Philadelphia:Harrisburg Detroit:Lansing "
        "Oakland:Sacramento Cleveland:Columbus Memphis:Nashville Baltimore:Annapolis Milwaukee:Madison "
        "Minneapolis:Saint Portland:Salem Tucson:Phoenix Charlotte:Raleigh Savannah:Atlanta Omaha:Lincoln "
        "Wichita:Topeka Birmingham:Montgomery Shreveport:Baton Burlington:Montpelier Fargo:Bismarck"
    ),
    "evaluation": (
        "Houston:Austin Orlando:Tallahassee Spokane:Olympia Pittsburgh:Harrisburg Fresno:Sacramento "
        "Cincinnati:Columbus Knoxville:Nashville "
        "Tulsa:Oklahoma Buffalo:Albany Newark:Trenton Bridgeport:Hartford Louisville:Frankfort "
        "Eugene:Salem Anaheim:Sacramento Tampa:Tallahassee Tacoma:Olympia Toledo:Columbus "
        "Durham:Raleigh Flagstaff:Phoenix Mobile:Montgomery Rochester:Albany"
    ),
}

OPPOSITES: Mapping[str, Mapping[Split, str]] = {
    "english": {
        "attribution": (
            "hot:cold big:small up:down fast:slow happy:sad light:dark rich:poor strong:weak early:late open:closed "
            "hard:soft high:low new:old wet:dry true:false left:right inside:outside first:last"
        ),
        "evaluation": (
            "tall:short young:old good:bad full:empty clean:dirty loud:quiet near:far heavy:light easy:difficult "
            "front:back win:lose buy:sell always:never day:night love:hate begin:end thick:thin alive:dead"
        ),
    },
    "french": {
        "attribution": (
            "chaud:froid grand:petit riche:pauvre fort:faible jour:nuit ouvert:fermé "
            "vrai:faux haut:bas premier:dernier avant:après"
        ),
        "evaluation": (
            "jeune:vieux bon:mauvais long:court gauche:droite plein:vide rapide:lent noir:blanc facile:difficile "
            "toujours:jamais guerre:paix"
        ),
    },
    "german": {
        "attribution": (
            "warm:kalt hell:dunkel reich:arm stark:schwach Tag:Nacht offen:geschlossen "
            "wahr:falsch hoch:niedrig innen:außen erste:letzte"
        ),
        "evaluation": (
            "jung:alt gut:schlecht lang:kurz links:rechts voll:leer schnell:langsam schwarz:weiß "
            "leicht:schwer immer:nie Krieg:Frieden"
        ),
    },
}

NUMBERS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
)
"""The number words of sums, each at its value."""

ADDENDS: Mapping[Split, range] = {"attribution": range(1, 10, 2), "evaluation": range(2, 10, 2)}


@dataclass(frozen=True)
class KnownFunction:
    """A function from one word to another, which a model is asked for.

    Attributes:
        name: unique name.
        summary: one line for listings.
        frames: by the name of a template, the text with a slot `{cue}`.
        words: by split, pairs "word:value" of one word each.
        version: version of the pairs.
    """

    name: str
    summary: str
    frames: Mapping[str, str]
    words: Mapping[Split, str]
    version: str = "1"

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        """Yield distinct pairs, the templates in turn, in an order drawn from `seed`."""
        return interleave([self._stream(frame, split, seed) for frame in self.frames])

    def _stream(self, frame: str, split: Split, seed: int) -> Iterator[ContrastPair]:
        value_of = dict(entry.split(":") for entry in self.words[split].split())
        rng = generator(self.name, self.version, split, seed, frame)
        words = list(value_of)
        for _ in range(COUNTERFACTUALS):
            rng.shuffle(words)
            for cue in words:
                other = rng.choice([word for word in words if value_of[word] != value_of[cue]])
                yield ContrastPair(
                    template=frame,
                    clean=fill_frame(self.frames[frame], ("before", "after"), {"cue": cue}),
                    counterfactual=fill_frame(self.frames[frame], ("before", "after"), {"cue": other}),
                    answers=(f" {value_of[cue]}",),
                    foils=(f" {value_of[other]}",),
                    words=(cue, other),
                    clusters={"cue": cue, "counterfactual_cue": other},
                )


@dataclass(frozen=True)
class Addition:
    """Sums of two numbers of one digit, in words; the prompts of a pair differ in the first number or in the second.

    Attributes:
        name: "addition".
        version: version of the pairs.
        summary: one line for listings.
    """

    name: str = "addition"
    version: str = "1"
    summary: str = "sums of two numbers of one digit: Three plus five is -> eight"

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        """Yield distinct pairs, the place that differs in turn, in an order drawn from `seed`."""
        return interleave([self._stream(place, split, seed) for place in ("first", "second")])

    def _stream(self, place: str, split: Split, seed: int) -> Iterator[ContrastPair]:
        rng = generator(self.name, self.version, split, seed, place)
        numbers = ADDENDS[split]
        drawn = [(one, other, kept) for one in numbers for other in numbers for kept in numbers if one != other]
        rng.shuffle(drawn)
        for one, other, kept in drawn:
            words = [NUMBERS[number] for number in (one, other, kept)]
            kept_slot = {"second" if place == "first" else "first": words[2]}
            yield ContrastPair(
                template=place,
                clean=fill_frame(_SUM, ("question", "plus", "answer"), kept_slot | {place: words[0]}),
                counterfactual=fill_frame(_SUM, ("question", "plus", "answer"), kept_slot | {place: words[1]}),
                answers=(f" {NUMBERS[one + kept]}",),
                foils=(f" {NUMBERS[other + kept]}",),
                words=tuple(words),
                clusters={"cue": words[0], "counterfactual_cue": words[1]},
            )


_SUM = "What is {first} plus {second}? The answer is"

PROVIDES: tuple[Task, ...] = (
    KnownFunction(
        "capital",
        "capitals of countries: The capital of France is -> Paris",
        {
            "is": "The capital of {cue} is",
            "called": "The capital of {cue} is called",
            "city": "The capital of {cue} is the city of",
        },
        CAPITALS,
    ),
    KnownFunction(
        "state_capital",
        "capital of a city's state, a step in between: ... the state that contains Dallas is -> Austin",
        {
            "contains": "The capital of the state that contains {cue} is",
            "where": "The capital of the state where {cue} is located is",
        },
        STATE_CAPITALS,
    ),
    Addition(),
    KnownFunction(
        "opposite_english",
        "English opposites: The opposite of hot is -> cold",
        {"is": "The opposite of {cue} is", "not": "Antonyms: the opposite of {cue} is"},
        OPPOSITES["english"],
    ),
    KnownFunction(
        "opposite_french",
        "French opposites: Le contraire de chaud est -> froid",
        {
            "est": "Le contraire de {cue} est",
            "mot": "En français, le contraire du mot {cue} est",
        },
        OPPOSITES["french"],
    ),
    KnownFunction(
        "opposite_german",
        "German opposites: Das Gegenteil von warm ist -> kalt",
        {"ist": "Das Gegenteil von {cue} ist", "wort": "Auf Deutsch ist das Gegenteil von {cue}"},
        OPPOSITES["german"],
    ),
)
