"""Language models in the Trainer, and in trl's with adapters, against two gradients by hand."""

import pytest

pytest.importorskip("transformers")
pytest.importorskip("accelerate")
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hosts import reference
from hosts.trainers import SharpTrainer, arguments
from sharpless import GRST
from sharpless.hosts.transformers import Sharpness

pytestmark = pytest.mark.filterwarnings("ignore", "error:.*(passes|each pass)")


def language_model():
    config = LlamaConfig(
        vocab_size=17, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=8,
    )  # fmt: skip
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def sentences(count=16, longest=7):
    """Rows of unequal length: labels of −100 count for nothing, and versions differ in whether the first ones do."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(17, (count, longest), generator=generator)
    lengths = torch.randint(2, longest + 1, (count, 1), generator=generator)
    places = torch.arange(longest)
    return ids, ids.masked_fill((places >= lengths) | (places == 0), -100)


def summed(model, rows, labels, divisor):
    """The gradient of the summed loss of some rows, divided by a number; and this loss."""
    logits = model(rows).logits[:, :-1]
    loss = cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum") / divisor
    return torch.autograd.grad(loss, trained(model)), loss.item()


def trained(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def by_hand(model, base, steps, rho, gamma, q):
    """Train on lists of micro-batches (ids, labels), all of which climb; return the clean losses."""
    losses = []
    for micros in steps:
        items = sum(int((labels[:, 1:] != -100).sum()) for _, labels in micros)
        total, loss = [torch.zeros_like(w) for w in trained(model)], 0.0
        for ids, labels in micros:
            size = round(q * len(ids))
            clean, clean_loss = summed(model, ids[:size], labels[:size], items)
            norm = sum((g**2).sum() for g in clean) ** 0.5
            before = [w.detach().clone() for w in trained(model)]
            with torch.no_grad():
                for w, g in zip(trained(model), clean, strict=True):
                    w.add_(rho * q**0.5 * g / norm)
            perturbed, _ = summed(model, ids[:size], labels[:size], items)
            with torch.no_grad():
                for w, old in zip(trained(model), before, strict=True):
                    w.copy_(old)
            others, other_loss = summed(model, ids[size:], labels[size:], items) if q < 1 else ([0.0] * len(clean), 0.0)
            terms = zip(total, clean, perturbed, others, strict=True)
            total = [t + g + (gamma / q) * (h - g) + r for t, g, h, r in terms]
            loss += clean_loss + other_loss
        losses.append(loss)
        for w, g in zip(trained(model), total, strict=True):
            w.grad = g
        base.step()
    return losses


@pytest.mark.parametrize("q", [1.0, 0.5])
def test_items_in_all_micro_batches(q, tmp_path):
    """Sees a part whose loss is divided by the number of items of all micro-batches: half of the gradient is lost."""
    ours, theirs = language_model(), language_model()
    ids, labels = sentences()
    steps = [[(ids[i : i + 4], labels[i : i + 4]) for i in (start, start + 4)] for start in (0, 8)]
    losses = by_hand(theirs, torch.optim.SGD(theirs.parameters(), lr=0.5), steps, 0.1, 1.5, q)

    data = [{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)]
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    opt = GRST(torch.optim.SGD(ours.parameters(), lr=0.5), p=1.0, gamma=1.5, rho=0.1, batch_fraction=q)
    kind = type("Handed", (SharpTrainer,), {"wrap_optimizer": Sharpness.wrap_optimizer})
    host = kind(ours, arguments(tmp_path, **options), train_dataset=data, optimizers=(opt, None))
    host.train()
    assert reference.distance(ours, theirs) < 1e-6
    assert [row["loss"] for row in host.state.log_history[:-1]] == pytest.approx(losses, abs=1e-5)


@pytest.mark.parametrize("q", [1.0, 0.5])
def test_adapters(q, tmp_path):
    """Sees frozen weights displaced or trained, or a gradient of trl's loss that is not the one of the whole batch."""
    trl, peft = pytest.importorskip("trl"), pytest.importorskip("peft")
    datasets = pytest.importorskip("datasets")

    class Recording(Sharpness, trl.SFTTrainer):
        _get_train_sampler = SharpTrainer._get_train_sampler

        def wrap_optimizer(self, base):
            return GRST(base, p=1.0, gamma=1.5, rho=0.1, batch_fraction=q)

        def training_step(self, model, inputs, *args):
            seen.append((inputs["input_ids"], inputs["labels"]))
            return super().training_step(model, inputs, *args)

    def adapted():
        torch.manual_seed(0)
        return peft.get_peft_model(language_model(), peft.LoraConfig(r=2, target_modules=["q_proj"], lora_alpha=8))

    seen, ours, theirs = [], adapted(), adapted()
    ids = [[number % 17 for number in range(start, start + 3 + start % 5)] for start in range(16)]
    # Versions differ in whether the first label counts.
    rows = [{"input_ids": row, "completion_mask": [0] + [1] * (len(row) - 1)} for row in ids]
    host = Recording(
        ours,
        trl.SFTConfig(
            str(tmp_path), use_cpu=True, bf16=False, per_device_train_batch_size=4, gradient_accumulation_steps=2,
            num_train_epochs=1, logging_steps=1, save_strategy="no", disable_tqdm=True, max_grad_norm=0.0,
            report_to="none", completion_only_loss=True,
            lr_scheduler_type="constant", optim="sgd", learning_rate=0.5,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer(),
    )  # fmt: skip
    host.train()
    steps = [seen[:2], seen[2:]]
    losses = by_hand(theirs, torch.optim.SGD(trained(theirs), lr=0.5), steps, 0.1, 1.5, q)
    assert reference.distance(ours, theirs) < 1e-6
    assert [row["loss"] for row in host.state.log_history[:-1]] == pytest.approx(losses, abs=1e-5)


def tokenizer():
    words = {"<pad>": 0, "<eos>": 1} | {f"word{number}": number for number in range(2, 17)}
    model = Tokenizer(WordLevel(words, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="<eos>")
