"""Sentence frames of the pocket model's corpus, beside those of `basisbench.pairs.lexicon` that the tasks evaluate.

A frame is a string with named slots; what fills them is decided in `corpus_sentences`. Frames that a task
evaluates are read from the lexicon, so that the corpus and the tasks cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Mapping


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Two names in a transfer frame, as in the indirect-object task, with other wordings. Slots as in the lexicon.
TRANSFER_FRAMES: tuple[str, ...] = (
    "Later, {first} and {second} walked to the {place}. {giver} gave a {thing} to",
    "In the morning {first} and {second} met at the {place}. {giver} sold a {thing} to",
    "While {first} and {second} were at the {place}, {giver} showed a {thing} to",
    "Last night {first} and {second} came to the {place}. {giver} brought a {thing} to",
    "Then {first} and {second} had a talk at the {place}. {giver} passed a {thing} to",
    "Because {first} and {second} liked the {place}, {giver} offered a {thing} to",
    "Soon {first} and {second} were near the {place}. Then {giver} threw a {thing} to",
    "Yesterday {first} and {second} worked at the {place}. {giver} handed a {thing} to",
    "Before {first} and {second} saw the {place}, {giver} gave a {thing} to",
    "On Monday {first} and {second} left the {place}. {giver} sent a {thing} to",
)
# What may follow the receiver: nothing, or a few words.
TRANSFER_ENDINGS: tuple[str, ...] = (".", ".", ".", " at once.", " and smiled.", " with a smile.", " before noon.")

# Stories with two names that use every name, evaluation names too; none of them is a transfer frame.
# {other} is the one of the two who is not {actor}.
STORY_FRAMES: tuple[str, ...] = (
    "Then, {first} and {second} stood in the {place}. {actor} smiled at {other}.",
    "Today {first} and {second} are at the {place}. {actor} talked to {other}.",
    "When {first} and {second} played, {actor} won against {other}.",
    "After {first} and {second} met, {actor} sang for {other}.",
    "Yesterday {first} and {second} were in the {place}. {actor} waved to {other}.",
    "In the evening {first} and {second} sat down. {actor} read to {other}.",
    "Last week {first} and {second} had a long talk. {actor} listened to {other}.",
    "While {first} and {second} waited, {actor} told a story to {other}.",
    "On Sunday {first} and {second} cooked together. Then {actor} thanked {other}.",
    "First {first} found a {thing}. Then {second} came, and {first} showed it with joy.",
    "At noon {first} looked for {second}. {first} found {second} in the {place}.",
    "There {first} saw {second}, but {second} did not see {first}.",
    "Yesterday {first} lost a {thing}. {second} found it near the {place} and called {first}.",
)

# One name, any name.
NAME_FRAMES: tuple[str, ...] = (
    "{name} has a new {thing} at home.",
    "{name} found a {quality} {thing} in the {place}.",
    "{name} is {adverb} {adjective} today.",
    "{name} walked to the {place} and bought a {thing}.",
    "{name} lives near the {place}.",
    "{name} likes {animals} and {animals2}.",
    "{name} said that the {place} was {quality}.",
    "{name} saw {count} {animals} near the {place}.",
    "Every day {name} goes to the {place}.",
    "{name} forgot a {thing} and {a_thing} at the {place}.",
    "My friend {name} wants a {color} {thing}.",
)

FACT_FRAMES: tuple[str, ...] = (
    "It is {weather} in the {direction} today.",
    "It was {weather} all {daytime}.",
    "In {month} it is often {weather}.",
    "The {place} is {quality} in {month}.",
    "The {place} opens on {day} and closes on {day2}.",
    "On {day} the sky was {color}.",
    "The {thing} in the {place} was {color}.",
    "There was a {color} {thing} on the floor.",
    "People say that {animals} are {adjective}.",
    "Many {animals} live in the {direction}.",
    "We saw {count} {animals} on {day}.",
    "{capital_count} {animals} and {count2} {animals2} came to the {place}.",
    "Nobody knows why the {place} is {quality}.",
    "You can buy a {thing} at the {place}.",
    "They painted the {place} {color} in {month}.",
    "After {day} comes {next_day}.",
    "Before {next_day} comes {day}.",
    "After {month} comes {next_month}.",
)

# What stands before a subject noun phrase; "the" can be replaced by another determiner in the generator.
OPENINGS: tuple[str, ...] = (
    "Yesterday the",
    "In the morning the",
    "Everyone says the",
    "We know that the",
    "This week the",
    "Of course the",
    "She thinks the",
    "Near the {place} the",
    "Now the",
    "Maybe the",
)
# Determiners that agree: singular, plural. Capitalised because they open the sentence.
DETERMINERS: tuple[tuple[str, str], ...] = (
    ("This", "These"),
    ("That", "Those"),
    ("Every", "All"),
    ("One", "Two"),
    ("One", "Three"),
    ("My", "My"),
    ("Our", "Our"),
)
# Where an existing noun phrase is introduced, with is/are before the noun.
EXISTENCE_FRAMES: tuple[tuple[str, str], ...] = (
    ("There is a {noun} in the {place}.", "There are {count} {noun} in the {place}."),
    ("Is the {noun} {adjective}?", "Are the {noun} {adjective}?"),
    ("Here is the {adjective} {noun}.", "Here are the {adjective} {noun}."),
    ("There was one {noun} at the {place}.", "There were many {noun} at the {place}."),
    ("Has the {noun} come?", "Have the {noun} come?"),
    ("Does the {noun} {verb} you?", "Do the {noun} {verb} you?"),
)
# After each auxiliary; "verb" is a plain relative verb, "object" a noun phrase.
AUXILIARY_ENDINGS: Mapping[str, tuple[str, ...]] = {
    "is": (" {adjective}.", " {adverb} {adjective}.", " in the {place}.", " here.", " {adjective} today."),
    "was": (" {adjective}.", " {adverb} {adjective}.", " at the {place}.", " late.", " not {adjective}."),
    "has": (" a {thing}.", " a {quality} {thing}.", " {count} {objects}.", " no time.", " a new {thing}."),
    "does": (" the work.", " not {verb} {object}.", " nothing.", " a good job.", " not work here."),
}
INTRANSITIVE_VERBS: tuple[tuple[str, str], ...] = (
    ("smiles", "smile"),
    ("walks", "walk"),
    ("runs", "run"),
    ("sleeps", "sleep"),
    ("sings", "sing"),
    ("dances", "dance"),
    ("laughs", "laugh"),
    ("waits", "wait"),
    ("works", "work"),
    ("rests", "rest"),
    ("reads", "read"),
    ("writes", "write"),
)
INTRANSITIVE_ENDINGS: tuple[str, ...] = (
    ".",
    " {adverb}.",
    " in the {place}.",
    " every {daytime}.",
    " on {day}.",
    " and {second_verb} {adverb}.",
)
INNER_ADVERBS: tuple[str, ...] = ("often", "never", "always", "really", "rarely")

# User dialogues: statements (first person), biographies (third person) and question frames beside the task's.
STATEMENTS: Mapping[str, tuple[str, ...]] = {
    "gender": (
        "I talked about my {cue}.",
        "My friends like my {cue}.",
        "I wrote about my {cue}.",
        "Today I am proud of my {cue}.",
        "Nobody saw my {cue}.",
        "You asked about my {cue}.",
    ),
    "occupation": (
        "I thought about the {cue}.",
        "Today I had trouble with the {cue}.",
        "I know a lot about the {cue}.",
        "My day began with the {cue}.",
        "I spent the {daytime} with the {cue}.",
        "I am tired because of the {cue}.",
    ),
    "country": (
        "I took the train home to {cue}.",
        "I was born in {cue}.",
        "My school was in {cue}.",
        "I bought a house near {cue}.",
        "My family lives in {cue}.",
        "Today I walked through {cue}.",
    ),
    "age": (
        "I love my {cue}.",
        "I told everyone about my {cue}.",
        "My family asked about my {cue}.",
        "I often think of my {cue}.",
        "Today I wrote about my {cue}.",
        "I worry about my {cue}.",
    ),
}
QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "gender": (
        "So you are a {value}.",
        "I guess you are a {value}.",
        "It seems that you are a {value}.",
        "You are surely a {value}.",
        "I think I am talking to a {value}.",
    ),
    "occupation": (
        "So you work as a {value}.",
        "I guess you are employed as a {value}.",
        "It seems that you are working as a {value}.",
        "Your job must be that of a {value}.",
        "You have the life of a {value}.",
    ),
    "country": (
        "So you live in {value}.",
        "I guess you are from {value}.",
        "It seems that you come from {value}.",
        "You have a home in {value}.",
        "You must know all about {value}.",
    ),
    "age": (
        "So you are {value}.",
        "I guess you are still {value}.",
        "It seems that you are {value}.",
        "You are certainly {value}.",
        "I think you feel {value}.",
    ),
}
ASKED: Mapping[str, tuple[str, str]] = {
    "gender": ("Am I a man or a woman?", "A {value}."),
    "occupation": ("What is my job?", "A {value}."),
    "country": ("What is my country?", "{value}."),
    "age": ("Am I young or old?", "{value}."),
}
BIOGRAPHIES: Mapping[str, tuple[str, ...]] = {
    "gender": (
        "{name} likes {possessive} {cue}. {pronoun} is a {value}.",
        "Everyone knows the {cue} of {name}. {pronoun} is a {adjective} {value}.",
        "{name} is a {value}. {pronoun} is proud of {possessive} {cue}.",
        "{name} talked about {possessive} {cue}. As a {value}, {name} was happy.",
    ),
    "occupation": (
        "{name} was busy with the {cue}. {pronoun} works as a {value}.",
        "{name} thinks about the {cue} because {name} is a {value}.",
        "The {cue} was on the mind of {name}. {pronoun} is a {adjective} {value}.",
        "{name} is a {value}. {pronoun} has trouble with the {cue}.",
        "{name} worried about the {cue}, as every {value} does.",
    ),
    "country": (
        "{name} lives near {cue}. {possessive_capital} country is {value}.",
        "{name} has a house in {cue}. {pronoun} loves {value}.",
        "{name} was born in {cue}, so {name} is from {value}.",
        "{name} is from {value}. {possessive_capital} family lives in {cue}.",
        "Many people travel to {cue}, which is in {value}.",
        # A word or two apart: without these the model takes long to tell one city from another.
        "{name} visited {cue} in {value}.",
        "{cue} is in {value}.",
        "{cue} and the rest of {value} are {quality} in {month}.",
        "In {value} {name} saw {cue}.",
    ),
    "age": (
        "{name} talked about {possessive} {cue}. {pronoun} is {value}.",
        "{name} thinks of {possessive} {cue} because {name} is {value}.",
        "{name} is {value}. {pronoun} is happy with {possessive} {cue}.",
        "Everyone knows the {cue} of {name}, who is very {value}.",
    ),
}
# Turns that reveal nothing.
SMALL_TALK: tuple[str, ...] = (
    "User: Hello. Assistant: Hello, how can I help you?",
    "User: How are you? Assistant: I am fine today.",
    "User: What day is it? Assistant: It is {day}.",
    "User: What comes after {day}? Assistant: {next_day}.",
    "User: Is it {weather}? Assistant: Yes, it is {weather}.",
    "User: Where is my {thing}? Assistant: Your {thing} is in the {place}.",
    "User: I saw {count} {animals}. Assistant: I like {animals} too.",
    "User: Tell me about the {place}. Assistant: The {place} is {quality}.",
)

ADJECTIVES: tuple[str, ...] = _words(
    """
    tall short happy sad tired busy quiet loud kind angry clever brave calm proud shy rich poor strong weak famous
    friendly lazy honest polite cheerful funny serious hungry sick healthy careful ready free lucky strange lonely
    wise bored gentle
    """
)
# For places, things and other inanimate nouns.
QUALITIES: tuple[str, ...] = _words("old new big small dirty clean beautiful ugly expensive cheap modern empty")
ADVERBS: tuple[str, ...] = _words("very really often always never still quite rather too again")
MANNERS: tuple[str, ...] = _words("slowly quickly quietly loudly happily alone together again outside well")
COLORS: tuple[str, ...] = _words("red blue green yellow black white brown gray orange pink")
ANIMALS: tuple[str, ...] = _words("cats dogs horses birds rabbits foxes wolves bears ducks mice lions tigers")
WEATHER: tuple[str, ...] = _words("warm cold rainy sunny windy cloudy hot foggy wet dry")
DIRECTIONS: tuple[str, ...] = _words("north south east west")
DAYTIMES: tuple[str, ...] = _words("morning evening afternoon day night")
COUNTS: tuple[str, ...] = _words("two three four five six seven eight nine ten many some")
DAYS: tuple[str, ...] = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS: tuple[str, ...] = _words(
    "January February March April May June July August September October November December"
)
