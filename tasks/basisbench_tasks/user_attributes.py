"""What a model infers about its user from cues of several kinds, read in two frames, as text and as a chat.

For language models of the size of SmolLM2-135M or more; `user_modeling` has simpler pairs for the pocket model.
The user lets a cue slip: something they work on, a place, a person ("We had to wait for the midwife today."). No cue
names the attribute. The assistant's next word then shows what the model believes:

- directly: "It sounds like you work as a" -> " nurse"; "It sounds like you live in" -> " Japan";
- where something else depends on it: as advice ("You should take a course in" -> " medicine"), or in an infobox
  ("My notes about you: Nationality:" -> " Japanese").

The frames of an attribute share the user's turn to the letter, so a node at a position of that turn is the same node
in both. With `_chat` the model's own chat template writes the turns. A template is a kind of cue. The two prompts of a
pair differ in the cue alone; cues, and the sentences around them, of one split are not in the other.

The cues are associations that most people would draw; they measure what a model believes, not what is so. All texts
are made up. Accuracies are in docs/user-attributes.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from basisbench.pairs.sentence_frames import generator, interleave
from basisbench.protocols import Task
from basisbench.types import ContrastPair, Segment, Split

# Counterfactual cues tried for each clean prompt: one fits if it has as many tokens.
COUNTERFACTUALS = 8


@dataclass(frozen=True)
class Cues:
    """Cues of one kind, by split.

    Attributes:
        statements: what the user says, with a slot `{cue}`; in all of them as many tokens stand before and after it.
        words: by value of the attribute, the cues.
    """

    statements: Mapping[Split, tuple[str, ...]]
    words: Mapping[Split, Mapping[str, str]]


OCCUPATION: Mapping[str, Cues] = {
    "work": Cues(
        {
            "attribution": ("I was busy with the {cue} all day.", "I was careful with the {cue} all week."),
            "evaluation": ("We had trouble with the {cue} this week.", "We had problems with the {cue} this morning."),
        },
        {
            "attribution": {
                "farmer": "cows wheat crops tractor sheep hay",
                "nurse": "fever infection injections syringe wounds",
                "teacher": "lesson grammar essays homework curriculum exam",
                "chef": "sauce soup pastry ingredients menu broth",
                "lawyer": "trial lawsuit testimony statute verdict",
                "pilot": "plane propeller turbulence landing jet",
                "singer": "song melody chorus album harmony",
            },
            "evaluation": {
                "farmer": "goats livestock pigs soil harvest chickens",
                "nurse": "vaccine thermometer symptoms surgery pills",
                "teacher": "grades quiz syllabus textbook worksheet spelling",
                "chef": "dough stew recipe spices dessert salad",
                "lawyer": "contract evidence deposition litigation",
                "pilot": "engines takeoff aircraft flight fuselage helicopter",
                "singer": "lyrics tune concert microphone",
            },
        },
    ),
    "place": Cues(
        {
            "attribution": ("I left my phone near the {cue} last night.", "I lost my keys near the {cue} last night."),
            "evaluation": ("We ate our lunch near the {cue} last week.", "I parked my bike near the {cue} last week."),
        },
        {
            "attribution": {
                "farmer": "barn orchard ranch",
                "nurse": "ward hospital infirmary",
                "teacher": "classroom kindergarten blackboard",
                "chef": "kitchen oven diner",
                "lawyer": "court courtroom courthouse",
                "pilot": "airport hangar airfield",
                "singer": "stage studio choir",
            },
            "evaluation": {
                "farmer": "pasture greenhouse field",
                "nurse": "clinic ambulance pharmacy hospice",
                "teacher": "school playground schoolyard",
                "chef": "restaurant fridge bakery pantry",
                "lawyer": "jail prison tribunal",
                "pilot": "cockpit runway airstrip",
                "singer": "orchestra nightclub opera theater",
            },
        },
    ),
    "person": Cues(
        {
            "attribution": ("I had to talk with the {cue} again.", "I wanted to speak with the {cue} again."),
            "evaluation": ("We had to wait for the {cue} today.", "We had to look for the {cue} today."),
        },
        {
            "attribution": {
                "farmer": "shepherd beekeeper",
                "nurse": "patient surgeon dentist",
                "teacher": "pupils principal tutor",
                "chef": "waiter baker",
                "lawyer": "judge defendant jurors",
                "pilot": "passengers astronaut",
                "singer": "band guitarist pianist",
            },
            "evaluation": {
                "farmer": "milkman landowner",
                "nurse": "midwife doctor physician",
                "teacher": "students headmaster",
                "chef": "cook butcher",
                "lawyer": "client witness plaintiff prosecutor",
                "pilot": "crew stewardess",
                "singer": "composer drummer audience",
            },
        },
    ),
}

COUNTRY: Mapping[str, Cues] = {
    "food": Cues(
        {
            "attribution": ("We had some {cue} for dinner.", "I made some {cue} for lunch."),
            "evaluation": ("I cooked some {cue} last night.", "We ate some {cue} last week."),
        },
        {
            "attribution": {
                "Japan": "sushi ramen tempura sashimi",
                "Italy": "pizza spaghetti lasagna risotto",
                "France": "crepes croissants escargot",
                "Germany": "sausages strudel schnitzel",
                "India": "naan masala samosas",
                "Mexico": "tacos burritos guacamole",
                "China": "wonton dumplings",
            },
            "evaluation": {
                "Japan": "sake udon miso teriyaki",
                "Italy": "pasta pesto ravioli gnocchi",
                "France": "quiche brie baguettes",
                "Germany": "pretzels sauerkraut bratwurst",
                "India": "curry dal chutney",
                "Mexico": "salsa tortillas enchiladas",
                "China": "noodles congee",
            },
        },
    ),
    "name": Cues(
        {
            "attribution": ("My neighbor {cue} came over for dinner.", "My friend {cue} came over for lunch."),
            "evaluation": ("My cousin {cue} called me last night.", "My boss {cue} called me last week."),
        },
        {
            "attribution": {
                "Japan": "Yuki Takashi Haru",
                "Italy": "Giovanni Luigi Marco Francesca",
                "France": "Pierre Jacques Philippe Camille",
                "Germany": "Hans Klaus Fritz Greta",
                "India": "Raj Ravi Priya",
                "Mexico": "Carlos Pedro José",
                "China": "Wei Ming Xiao",
                "Russia": "Ivan Sergei Olga Vladimir",
            },
            "evaluation": {
                "Japan": "Akira Hiroshi Kenji Naoko",
                "Italy": "Lorenzo Paolo Carlo Roberto",
                "France": "Claude Antoine Henri Michel",
                "Germany": "Heinrich Helmut Otto Dieter",
                "India": "Rahul Amit Deepak Kumar",
                "Mexico": "Juan Miguel Diego",
                "China": "Jing Feng Zhao",
                "Russia": "Boris Igor Mikhail Yuri",
            },
        },
    ),
    "history": Cues(
        {
            "attribution": (
                "Every child here learns about {cue} in school.",
                "Our teachers here talk about {cue} in class.",
            ),
            "evaluation": (
                "The museum here is about {cue} this year.",
                "The exhibition here is about {cue} this year.",
            ),
        },
        {
            "attribution": {
                "Japan": "samurai Meiji Hirohito",
                "Italy": "Mussolini Dante Garibaldi",
                "France": "Napoleon Voltaire Robespierre",
                "Germany": "Bismarck Goethe Merkel",
                "India": "Gandhi Ashoka Tagore",
                "Mexico": "Aztecs Zapata",
                "China": "Mao Tang",
                "Russia": "Stalin Pushkin Tolstoy",
            },
            "evaluation": {
                "Japan": "Hiroshima Tojo Tokugawa",
                "Italy": "Galileo Michelangelo",
                "France": "Versailles Macron Rousseau",
                "Germany": "Luther Prussia Kaiser",
                "India": "Nehru Akbar Mughals",
                "Mexico": "Cortés Juárez Maya",
                "China": "Confucius Qing Deng",
                "Russia": "Lenin Trotsky Gorbachev",
            },
        },
    ),
}


@dataclass(frozen=True)
class Frame:
    """Where the belief is read.

    Attributes:
        name: "statement", "advice" or "infobox".
        reply: what the assistant has said when the answer is due.
        answers: by value of the attribute, the word that comes next.
    """

    name: str
    reply: str
    answers: Mapping[str, str]


def _answers(values: str, words: str) -> Mapping[str, str]:
    return dict(zip(values.split(), words.split(), strict=True))


OCCUPATIONS = "farmer nurse teacher chef lawyer pilot singer"
COUNTRIES = "Japan Italy France Germany India Mexico China Russia"

OCCUPATION_FRAMES = (
    Frame("statement", "It sounds like you work as a", _answers(OCCUPATIONS, OCCUPATIONS)),
    Frame(
        "advice",
        "You should take a course in",
        _answers(OCCUPATIONS, "agriculture medicine education cooking law aviation music"),
    ),
)

COUNTRY_FRAMES = (
    Frame("statement", "It sounds like you live in", _answers(COUNTRIES, COUNTRIES)),
    Frame(
        "infobox",
        "My notes about you:\n- Nationality:",
        _answers(COUNTRIES, "Japanese Italian French German Indian Mexican Chinese Russian"),
    ),
)


@dataclass(frozen=True)
class UserAttribute:
    """Which value of an attribute a model infers from what the user says.

    Attributes:
        attribute: "occupation" or "country".
        frame: where the belief is read.
        kinds: the cues by kind; a kind is a template.
        chat: whether the model's own chat template writes the prompt.
        version: version of the pairs.
    """

    attribute: str
    frame: Frame
    kinds: Mapping[str, Cues]
    chat: bool
    version: str = "1"

    @property
    def name(self) -> str:
        """Unique name, "user_", the attribute, the frame, and "_chat" for a chat."""
        return f"user_{self.attribute}_{self.frame.name}" + ("_chat" if self.chat else "")

    @property
    def summary(self) -> str:
        """One line for listings."""
        value, answer = next(iter(self.frame.answers.items()))
        cue = next(iter(self.kinds.values())).words["attribution"][value].split()[0]
        reply = self.frame.reply.replace("\n", " ")
        form = "chat" if self.chat else "text"
        return f"a user's {self.attribute}, told by cues, {form}: ... {cue} ... {reply} -> {answer}"

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        """Yield distinct pairs, the kinds of cues in turn, in an order drawn from `seed`."""
        return interleave([self._stream(kind, split, seed) for kind in self.kinds], limit=2000)

    def _stream(self, kind: str, split: Split, seed: int) -> Iterator[ContrastPair]:
        cues = {value: words.split() for value, words in self.kinds[kind].words[split].items()}
        prompts = [
            (statement, value, cue)
            for statement in self.kinds[kind].statements[split]
            for value in cues
            for cue in cues[value]
        ]
        # The frames of an attribute and its chat have the same pairs.
        rng = generator("user", self.attribute, self.version, split, seed, kind)
        for _ in range(COUNTERFACTUALS):
            rng.shuffle(prompts)
            for statement, value, cue in prompts:
                other_value = rng.choice([other for other in cues if other != value])
                other_cue = rng.choice(cues[other_value])
                yield ContrastPair(
                    template=kind,
                    clean=self._prompt(statement, cue),
                    counterfactual=self._prompt(statement, other_cue),
                    answers=(f" {self.frame.answers[value]}",),
                    foils=(f" {self.frame.answers[other_value]}",),
                    words=(cue, other_cue),
                    clusters={"cue": cue, "counterfactual_cue": other_cue},
                )

    def _prompt(self, statement: str, cue: str) -> tuple[Segment, ...]:
        before, after = statement.split(" {cue}")
        if self.chat:  # the template writes the headers
            return (
                Segment("statement", before, "user"),
                Segment("cue", f" {cue}", "user"),
                Segment("boundary", after, "user"),
                Segment("reply", self.frame.reply, "assistant"),
            )
        return (
            Segment("user_header", "User:"),
            Segment("statement", f" {before}"),
            Segment("cue", f" {cue}"),
            Segment("boundary", after),
            Segment("assistant_header", "\nAssistant:"),
            Segment("reply", f" {self.frame.reply}"),
        )


PROVIDES: tuple[Task, ...] = tuple(
    UserAttribute(attribute, frame, kinds, chat)
    for attribute, frames, kinds in (
        ("occupation", OCCUPATION_FRAMES, OCCUPATION),
        ("country", COUNTRY_FRAMES, COUNTRY),
    )
    for frame in frames
    for chat in (False, True)
)
