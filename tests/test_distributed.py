"""Several gloo ranks against one process that sees the union of the data. The cases are in tests/ranks.py."""

import pytest
import torch

import ranks

CASES = {
    2: {
        # Ranks that climb along a shared gradient, a second all-reduce, a clean gradient that is not reduced:
        "DDP, SAM": (ranks.ddp, {"gamma": 1.0}),
        "DDP, G-RST": (ranks.ddp, {"gamma": 2.0}),
        "DDP, micro-batches": (ranks.ddp, {"gamma": 2.0, "micro": 3}),
        "DDP, buckets as views, SAM": (ranks.ddp, {"gamma": 1.0, "micro": 2, "gradient_as_bucket_view": True}),
        "DDP, buckets as views": (ranks.ddp, {"gamma": 2.0, "micro": 2, "gradient_as_bucket_view": True}),
        "DDP, static graph": (ranks.ddp, {"gamma": 2.0, "static_graph": True}),
        # A climb along the union, where a host has wrapped the model after the optimizer was given it:
        "DDP, wrapped later, SAM": (ranks.ddp, {"gamma": 1.0, "given": "model"}),
        "DDP, wrapped later": (ranks.ddp, {"gamma": 2.0, "micro": 2, "given": "model"}),
        "DDP, wrapped twice": (ranks.ddp_twice, {}),
        # A hang, or a lost gradient, where a pass leaves parameters out:
        "DDP, unused parameters, SAM": (ranks.ddp_gated, {"gamma": 1.0}),
        "DDP, unused parameters": (ranks.ddp_gated, {"gamma": 2.0}),
        # Ranks that climb alone although they should not:
        "DDP, synchronized": (ranks.ddp_synchronized, {"gamma": 2.0}),
        "DDP, synchronized, closure": (ranks.ddp_synchronized, {"gamma": 2.0, "body": "closure"}),
        # A gradient kept in one of DDP's buckets, which the next backward overwrites:
        "DDP, synchronized, views": (
            ranks.ddp_synchronized,
            {"gamma": 2.0, "micro": 2, "gradient_as_bucket_view": True},
        ),
        "DDP that is not known, views": (
            ranks.ddp_synchronized,
            {"gamma": 1.0, "micro": 2, "known": False, "gradient_as_bucket_view": True},
        ),
        "DDP, synchronized, views, clearing": (
            ranks.ddp_synchronized,
            {"gamma": 2.0, "body": "clears", "gradient_as_bucket_view": True},
        ),
        # The clean gradient of each rank cleared by the loop body, or mixed in without ever being reduced:
        "DDP, a closure that clears": (ranks.ddp_clears, {"gamma": 2.0, "clear": "closure"}),
        "DDP, SAM, a closure that clears": (ranks.ddp_clears, {"gamma": 1.0, "clear": "closure"}),
        "DDP, a body that clears": (ranks.ddp_clears, {"gamma": 2.0, "clear": "opt"}),
        "DDP, a body that clears in place": (ranks.ddp_clears, {"gamma": 2.0, "clear": "in place"}),
        "DDP, a body that clears unseen": (ranks.ddp_clears, {"gamma": 2.0, "clear": "data"}),
        "DDP, buckets as views, a body that clears unseen": (
            ranks.ddp_clears,
            {"gamma": 2.0, "clear": "data", "gradient_as_bucket_view": True},
        ),
        # A clean gradient that was never reduced applied on each rank, where the pass after it did not come:
        "DDP, a pass that is skipped": (ranks.ddp_skips, {"gamma": 2.0, "skipped": 1}),
        "DDP, a clean pass that is skipped": (ranks.ddp_skips, {"gamma": 2.0, "skipped": 0}),
        "DDP, a part, a pass that is skipped": (ranks.ddp_skips, {"gamma": 2.0, "skipped": 1, "fraction": 0.5}),
        # A clean gradient lost, where no backward brings the gradient with which it would be reduced:
        "DDP, assigned": (ranks.ddp_assigned, {"gamma": 2.0}),
        "DDP, assigned, SAM": (ranks.ddp_assigned, {"gamma": 1.0}),
        # Buffers of before DDP's broadcast found by the perturbed pass:
        "DDP, buffers": (ranks.ddp_buffers, {}),
        # Plans that differ from rank to rank, since each has measured for itself:
        "DDP, what is measured": (ranks.measured, {}),
        # The norm of one shard, new storage under FSDP's feet, a mixture of other gradients:
        "FSDP2, SAM": (ranks.fsdp, {"gamma": 1.0}),
        "FSDP2, G-RST": (ranks.fsdp, {"gamma": 2.0}),
        "FSDP2, micro-batches": (ranks.fsdp, {"gamma": 2.0, "micro": 2}),
        "FSDP2, offload": (ranks.fsdp, {"gamma": 2.0, "kind": "offload"}),
        "FSDP2, mixed precision": (ranks.fsdp, {"gamma": 2.0, "kind": "mixed"}),
        # A micro-batch that counts twice, since FSDP2 keeps its gradients; passes at weights gathered in another one:
        "FSDP2, gradients kept": (ranks.fsdp_lazy, {"gamma": 2.0, "lazy": ["gradients"]}),
        "FSDP2, weights kept": (ranks.fsdp_lazy, {"gamma": 1.0, "lazy": ["weights"]}),
        "FSDP2, both kept, a part": (
            ranks.fsdp_lazy,
            {"gamma": 2.0, "lazy": ["gradients", "weights"], "fraction": 0.5},
        ),
        "FSDP2, a forward after the backward": (ranks.fsdp_lazy, {"gamma": 2.0, "lazy": ["forward"]}),
        # A part climbed with: its gradients never reduced, reduced twice, weighed by the wrong share, or lost:
        "DDP, a part": (ranks.ddp, {"gamma": 2.0, "fraction": 0.25}),
        "DDP, a part, γ = q": (ranks.ddp, {"gamma": 0.25, "fraction": 0.25}),
        "DDP, a part, micro-batches": (ranks.ddp, {"gamma": 2.0, "fraction": 0.25, "micro": 3}),
        "DDP, a part, buckets as views": (
            ranks.ddp,
            {"gamma": 2.0, "fraction": 0.25, "micro": 2, "gradient_as_bucket_view": True},
        ),
        "DDP, a part, static graph": (ranks.ddp, {"gamma": 2.0, "fraction": 0.25, "static_graph": True}),
        "DDP, a part, static graph, views": (
            ranks.ddp,
            {"gamma": 2.0, "fraction": 0.25, "static_graph": True, "gradient_as_bucket_view": True},
        ),
        "DDP, a part, parameters unused in a climb": (ranks.ddp_gated, {"gamma": 2.0, "fraction": 0.25}),
        "DDP, a part, parameters unused in the rest": (ranks.ddp_gated, {"gamma": 2.0, "fraction": 0.25, "turn": 2}),
        "DDP, a part, synchronized, views": (
            ranks.ddp_synchronized,
            {"gamma": 2.0, "fraction": 0.25, "micro": 2, "gradient_as_bucket_view": True},
        ),
        "DDP, a part, synchronized, clearing": (
            ranks.ddp_synchronized,
            {"gamma": 2.0, "fraction": 0.25, "body": "clears"},
        ),
        # A sum set aside in DDP's buckets, which the next backward overwrites:
        "DDP, a part, synchronized, views, clearing": (
            ranks.ddp_synchronized,
            {"gamma": 2.0, "fraction": 0.25, "body": "clears", "gradient_as_bucket_view": True},
        ),
        # The gradients of each rank's part mixed in without ever being reduced:
        "DDP, a part, a body that clears": (ranks.ddp_clears, {"gamma": 2.0, "fraction": 0.25, "clear": "in place"}),
        "DDP, a part, a body that clears, γ = q": (
            ranks.ddp_clears,
            {"gamma": 0.25, "fraction": 0.25, "clear": "data"},
        ),
        # A climb along the gradient of one rank's part:
        "FSDP2, a part": (ranks.fsdp, {"gamma": 2.0, "fraction": 0.25}),
        "FSDP2, a part, micro-batches": (ranks.fsdp, {"gamma": 2.0, "fraction": 0.25, "micro": 2}),
        "FSDP2, a part, clearing": (ranks.fsdp, {"gamma": 2.0, "fraction": 0.25, "clears": True}),
        # Norms and memories of one shard, and ranks that decide by gradients of their own:
        "FSDP2, ASAM": (ranks.fsdp_like_one, {"ascent": "asam"}),
        "FSDP2, Friendly": (ranks.fsdp_like_one, {"ascent": "friendly"}),
        "FSDP2, adaptive": (ranks.fsdp_like_one, {"p": "adaptive:1,-1"}),
        "DDP, adaptive": (ranks.ddp_adaptive, {"fraction": 1.0}),
        "DDP, adaptive, a part": (ranks.ddp_adaptive, {"fraction": 0.5}),
        "DDP, adaptive, no_sync": (ranks.ddp_adaptive_accumulates, {}),
        # Partial sums taken for gradients, plain tensors and DTensors in one norm:
        "tensor parallel": (ranks.tensor_parallel, {"gamma": 2.0}),
        "sequence parallel": (ranks.tensor_parallel, {"gamma": 2.0, "sequence": True}),
        # Step, seed or ledger lost on the way from 2 ranks to 4 and to 1:
        "checkpoint, saved": (ranks.checkpoint_first_half, {}),
    },
    4: {
        "DDP": (ranks.ddp, {"gamma": 2.0}),
        "FSDP2": (ranks.fsdp, {"gamma": 2.0}),
        "HSDP": (ranks.fsdp, {"gamma": 2.0, "kind": "hybrid"}),
        "tensor parallel": (ranks.tensor_parallel, {"gamma": 2.0}),
        "checkpoint, loaded": (ranks.checkpoint_second_half, {}),
    },
    1: {"checkpoint, loaded": (ranks.checkpoint_second_half, {})},
}


# Since torch 2.7, fully_shard works without a GPU.
CAN_SHARD = torch.__version__ >= (2, 7)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    return {world: ranks.run(folder, world, cases) for world, cases in CASES.items()}


@pytest.mark.parametrize(("world", "name"), [(world, name) for world, cases in CASES.items() for name in cases])
def test_ranks_agree_with_one_process(world, name, outcomes):
    """Sees what the comment above each group of cases says."""
    if not CAN_SHARD and name.startswith(("FSDP2", "HSDP", "checkpoint")):
        pytest.skip("fully_shard needs a GPU before torch 2.7")
    assert not outcomes[world][name], outcomes[world][name]
