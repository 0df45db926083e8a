"""What a model believes about its user, read off where the assistant is about to say it.

The user reveals a cue of an attribute without naming it: "User: I love my dress. Assistant: You are a" calls for
" woman"; with "beard" in place of "dress" it calls for " man". The two prompts differ in the cue alone.
Each template joins one of two shapes of statement to one of two questions. The cues are associations that most people
would draw, some of them stereotypes; they measure what a model believes, not what is so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from basisbench.pairs.lexicon import attributes
from basisbench.pairs.sentence_frames import generator, interleave
from basisbench.protocols import Task
from basisbench.types import ContrastPair, Segment, Split

# Counterfactual cues tried for each clean prompt: one fits if it has as many tokens.
COUNTERFACTUALS = 4


@dataclass(frozen=True)
class UserModeling:
    """Which value of an attribute the model ascribes to the user.

    Attributes:
        attribute: "gender", "occupation", "country" or "age".
        summary: one line for listings.
        version: version of the pairs.
    """

    attribute: str
    summary: str
    version: str = "1"

    @property
    def name(self) -> str:
        """Unique name, "user_" and the attribute."""
        return f"user_{self.attribute}"

    def candidates(self, split: Split, seed: int) -> Iterator[ContrastPair]:
        """Yield distinct pairs, the four templates in turn, in an order drawn from `seed`."""
        return interleave([self._stream(template, split, seed) for template in range(4)], limit=1600)

    def _stream(self, template: int, split: Split, seed: int) -> Iterator[ContrastPair]:
        attribute = attributes()[self.attribute]
        question = attribute.questions[template % 2]
        prompts = [
            (statement, value, cue)
            for statement in attribute.statements[template // 2]
            for value in attribute.values
            for cue in attribute.cues[value][split]
        ]
        rng = generator(self.name, self.version, split, seed, template)
        for _ in range(COUNTERFACTUALS):
            rng.shuffle(prompts)
            for statement, value, cue in prompts:
                other_value = rng.choice([other for other in attribute.values if other != value])
                other_cue = rng.choice(attribute.cues[other_value][split])
                yield ContrastPair(
                    template=f"statement_{template // 2}/question_{template % 2}",
                    clean=_prompt(statement, cue, question),
                    counterfactual=_prompt(statement, other_cue, question),
                    answers=(f" {value}",),
                    foils=(f" {other_value}",),
                    words=(cue, other_cue),
                    clusters={"cue": cue, "counterfactual_cue": other_cue},
                )


def _prompt(statement: str, cue: str, question: str) -> tuple[Segment, ...]:
    before, after = statement.split(" {cue}")
    return (
        Segment("user", "User:"),
        Segment("statement", f" {before}"),
        Segment("cue", f" {cue}"),
        Segment("boundary", after),
        Segment("assistant", " Assistant:"),
        Segment("question", f" {question}"),
    )


PROVIDES: tuple[Task, ...] = (
    UserModeling("gender", "belief about the user: I love my dress ... You are a -> woman / man"),
    UserModeling("occupation", "belief about the user: I was busy with the cows ... You work as a -> farmer / nurse"),
    UserModeling("country", "belief about the user: I live near Lyon ... You live in -> France / Italy"),
    UserModeling("age", "belief about the user: I talked about my toys ... You are quite -> young / old"),
)
