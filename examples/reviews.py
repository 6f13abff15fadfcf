"""Short reviews as sequences of words, and an LSTM that reads them: data and a network of one's own.

prunephase calls both functions by name: `reviews:sentences` in [data], `reviews:reader` in [model].
"""

import random

import torch
from torch import nn

THINGS = ["the food", "the film", "the room", "the service", "the ending", "the coffee", "the music", "our guide"]
GOOD = ["lovely", "great", "warm", "honest", "bright", "superb"]
BAD = ["dull", "awful", "cold", "rude", "bland", "broken"]
TURNS = ["was", "was really", "was not", "was never", "was hardly", "was certainly"]
ENDS = ["", "at all", "to be fair", "this time", "as always"]
WORDS = ["", *sorted({word for part in (THINGS, GOOD, BAD, TURNS, ENDS) for phrase in part for word in phrase.split()})]
LENGTH = 9


def sentences(count: int = 600):
    """Words as numbers, [count, LENGTH] int64 with 0 behind the last, and whether the review is a good one."""
    rng = random.Random(0)
    x, y = torch.zeros(count, LENGTH, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
    for row in range(count):
        good, turn = rng.random() < 0.5, rng.choice(TURNS)
        said = f"{rng.choice(THINGS)} {turn} {rng.choice(GOOD if good else BAD)} {rng.choice(ENDS)}".split()
        x[row, : len(said)] = torch.tensor([WORDS.index(word) for word in said])
        y[row] = good != (turn.split()[-1] in ("not", "never", "hardly"))
    return x, y


class Reader(nn.Module):
    """[B, T] numbers of words -> [B, K] logits."""

    def __init__(self, classes: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), 16, padding_idx=0)
        self.lstm = nn.LSTM(16, width, batch_first=True)
        self.output = nn.Linear(width, classes)

    def forward(self, words):
        states, _ = self.lstm(self.embedding(words))
        return self.output(states.amax(1))


def reader(_input_shape, classes, width=32):
    """A model is a function (input_shape, classes, **kwargs) -> nn.Module; initial weights follow the trial's seed."""
    return Reader(classes, width)
