"""Text: a small BERT, trained from scratch with AdamW to classify sentences.

    pip install transformers
    sharpless compare examples/text.py:train --data reviews.csv --rho 0.005 0.01 0.02 0.05

The data are a CSV file with columns `text` and `label`. For example, the source of vaderSentiment contains 10,605
sentences of film reviews with their mean rating (`pip download --no-deps --no-binary :all: vaderSentiment`).
"""

import re
from collections import Counter

import pandas as pd
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from sharpless.lab import task

PADDING, UNKNOWN = 0, 1


@task(metric="accuracy", unit="%", goal="max")
def train(trial, data: str, width: int = 64, length: int = 32, epochs: int = 3, batch_size: int = 64) -> None:
    """Train on four fifths of the texts. The choice of hyperparameters validates on an eighth of them.

    Args:
        trial: one run of a comparison.
        data: the path of the CSV file.
        width: the width of the network.
        length: largest number of words of a text.
        epochs: epochs of plain training.
        batch_size: texts in a batch.
    """
    texts, labels = read(data)
    texts, test_texts, y, test_y = train_test_split(texts, labels, test_size=0.2, stratify=labels, random_state=0)
    if trial.choosing:
        texts, test_texts, y, test_y = train_test_split(texts, y, test_size=1 / 8, stratify=y, random_state=trial.seed)
    words = [word for word, count in Counter(word for text in texts for word in text).items() if count > 1]
    numbers = {word: number for number, word in enumerate(words, start=2)}
    (x, seen), (test_x, test_seen) = encoded(texts, numbers, length), encoded(test_texts, numbers, length)

    torch.manual_seed(trial.seed)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(numbers) + 2, hidden_size=width, num_hidden_layers=2, num_attention_heads=4,
            intermediate_size=2 * width, max_position_embeddings=length, num_labels=int(labels.max()) + 1,
        )
    )  # fmt: skip
    base = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    epochs, steps = trial.epochs(epochs), len(y) // batch_size
    opt = trial.optimizer(base, model=model, total_steps=epochs * steps, batch_size=batch_size, rho=0.02)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(base, base.param_groups[0]["lr"], epochs * steps, pct_start=0.1)
    for _ in range(epochs):
        for rows in torch.randperm(len(y))[: steps * batch_size].split(batch_size):
            batch = {"input_ids": x[rows], "attention_mask": seen[rows], "labels": y[rows]}
            for part in opt.passes(batch):
                model(**part).loss.backward()
            opt.step()
            opt.zero_grad()
            scheduler.step()
        with trial.evaluating(model):
            parts = zip(test_x.split(256), test_seen.split(256), strict=True)
            guessed = torch.cat([model(ids, attention_mask=mask).logits.argmax(1) for ids, mask in parts])
            trial.report(**{"validation" if trial.choosing else "test": 100 * (guessed == test_y).float().mean()})


def read(data: str) -> tuple[list[list[str]], Tensor]:
    """Return the words of each text, and the label as a number."""
    table = pd.read_csv(data)
    return [re.findall(r"\w+|[^\w\s]", text.lower()) for text in table["text"]], torch.tensor(
        table["label"].factorize(sort=True)[0]
    )


def encoded(texts: list[list[str]], numbers: dict[str, int], length: int) -> tuple[Tensor, Tensor]:
    """Return the indices of the words (N, length), and the attention mask."""
    ids = torch.full((len(texts), length), PADDING)
    for row, text in zip(ids, texts, strict=True):
        known = [numbers.get(word, UNKNOWN) for word in text[:length]]
        row[: len(known)] = torch.tensor(known)
    return ids, (ids != PADDING).long()
