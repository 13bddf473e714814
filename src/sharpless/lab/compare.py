"""A comparison: every method with every seed, in parallel, in a folder that can be continued."""

import json
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sharpless.lab import files, networks, pools
from sharpless.lab.checkpoints import Checkpoints
from sharpless.lab.data import Data
from sharpless.lab.faults import culprit, is_out_of_memory, reason
from sharpless.lab.optimizers import base_optimizer, wrap
from sharpless.lab.peers import pytorch_optimizer
from sharpless.lab.recipes import PEERS, Recipe, check_methods
from sharpless.lab.setup import MOST_THREADS, Setup, barrier, is_main_process
from sharpless.lab.train import Training, check, examples

__all__ = ["Comparison", "Run"]

PLAIN = (str, int, float, type(None))


@dataclass(frozen=True)
class Run:
    """One cell of a comparison."""

    recipe: Recipe
    method: str
    seed: int
    folder: Path
    setup: Setup
    fingerprint: str

    @property
    def name(self) -> str:
        """The method and the seed."""
        return f"{self.method}-seed{self.seed}"

    @property
    def path(self) -> Path:
        """The run file, which is there when the run is finished."""
        return self.folder / "runs" / f"{self.name}.json"

    @property
    def weights_path(self) -> Path:
        """The file of the final weights, where they are kept."""
        return self.folder / "weights" / f"{self.name}.pt"

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of the run while it is not finished."""
        told = {"recipe": asdict(self.recipe), "method": self.method, "seed": self.seed, "data": self.fingerprint}
        return Checkpoints(self.folder / "checkpoints" / self.name, told)

    def training(self, watch: Callable[[Training], None] | None = None) -> Training:
        """Return the run, ready to be trained from its beginning or its last checkpoint."""
        return Training(
            self.recipe, self.method, self.seed, setup=self.setup, checkpoints=self.checkpoints, watch=watch
        )

    def conclude(self, record: dict[str, Any], weights: dict[str, Any] | None = None) -> None:
        """Write what the run has come to, and delete its checkpoints, the last one when all is written."""
        self.checkpoints.keep(1)  # the other makes room
        if weights is not None:
            files.write_with(self.weights_path, lambda file: torch.save(weights, file))
        files.write(self.path, json.dumps(record, ensure_ascii=False, allow_nan=False))
        self.checkpoints.discard()


class Comparison:
    """Methods × seeds of one recipe in one folder.

    Nothing is written before everything has been checked. Runs that the folder already holds are not
    repeated, whichever way the process that made them ended, and those that were under way go on from a checkpoint.

    Args:
        recipe: what all runs have in common.
        methods: a choice of METHODS and PEERS.
        seeds: which seeds.
        folder: where run files go.
        setup: where each run is executed.

    Raises:
        ValueError: an argument is out of range, the data cannot be read, or the folder holds another experiment.
        ModuleNotFoundError: a package is not installed that a method, the network or the data need.
    """

    def __init__(
        self, recipe: Recipe, methods: Sequence[str], seeds: Sequence[int], folder: Path, setup: Setup | None = None
    ) -> None:
        check_methods(methods)
        if not set(PEERS).isdisjoint(methods):
            pytorch_optimizer()
        networks.check(recipe.network)
        self.recipe = recipe
        self.folder = folder
        self.setup = setup or Setup()
        self.data: Data = examples(recipe, seeds[0], self.setup)
        for method in methods:
            check(recipe, method, self.setup, self.data)
        self._check_network(methods)
        self.setup = self.setup.settled(self._check_folder())
        self.runs = [
            Run(recipe, method, seed, folder.absolute(), self.setup, self.data.fingerprint)
            for seed in seeds
            for method in dict.fromkeys(methods)
        ]
        for run in self.runs:
            files.check_file(run.path)
            files.check_file(run.weights_path)

    def _check_network(self, methods: Sequence[str]) -> None:
        """Find out whether the network takes the images, and the methods the network.

        Raises:
            ValueError: they do not.
        """
        recipe, data = self.recipe, self.data
        model = networks.build(recipe.network, classes=data.classes, channels=data.channels, width=recipe.width)
        for method in methods:
            wrap(recipe, method, base_optimizer(recipe, model), model, 1, 0)
        x, _ = next(data.test.batches([torch.arange(1)]))
        try:
            with torch.no_grad():
                logits = model.eval()(x)
        except Exception as error:  # of torch, or of the user's own forward
            if is_out_of_memory(error):
                raise
            where = culprit(error, recipe.network)
            raise ValueError(
                f"network = {recipe.network} does not take images of {data.channels} channels and {x.shape[2]} × "
                f"{x.shape[3]} pixels ({reason(error)}{'' if where is None else f', in {where}'}): "
                + ("give its arguments, or images of another size" if where is None else "mend it there")
            ) from error
        given = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        if given != (1, data.classes):
            raise ValueError(f"network = {recipe.network} gives {given} for one image: give one number a class")

    @property
    def _description(self) -> Path:
        return self.folder / "experiment.json"

    def _check_folder(self) -> int:
        """Find out whether the folder is free, or holds runs of this experiment.

        Returns:
            The number of threads that the folder was opened with, 0 where it is free.

        Raises:
            ValueError: it is no folder, or holds something else.
        """
        files.check_folder(self.folder)
        if not any(path for place in ("runs", "checkpoints") for path in (self.folder / place).glob("*")):
            return 0
        try:
            told = json.loads(self._description.read_text(encoding="utf-8"))
            there, fingerprint, threads = told["recipe"], told["data"], told["threads"]
            known = asdict(Recipe())
            fits = there.keys() <= known.keys() and all(isinstance(value, PLAIN) for value in there.values())
            if not fits or type(threads) is not int or not 1 <= threads <= MOST_THREADS:
                raise ValueError  # noqa: TRY301
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OSError):
            raise ValueError(
                f"{self._description} is not a recipe of this version: choose another folder with --out"
            ) from None
        if difference := self.recipe.difference({**known, **there}):
            raise ValueError(f"{self.folder} holds another experiment ({difference}): choose another folder with --out")
        if fingerprint != self.data.fingerprint:
            raise ValueError(
                f"{self.folder} holds runs on other data ({fingerprint} there and {self.data.fingerprint} here): "
                "choose another folder with --out"
            )
        if self.setup.threads not in {0, threads}:
            raise ValueError(
                f"{self.folder} holds runs with {threads} threads each, on which their rounding depends, and threads = "
                f"{self.setup.threads} here: leave --threads out, or choose another folder with --out"
            )
        return threads

    def open_folder(self) -> None:
        """Make the folder, and say in it whose runs it holds."""
        told = {"recipe": asdict(self.recipe), "data": self.data.fingerprint, "threads": self.setup.threads}
        files.write(self._description, json.dumps(told, indent=1, ensure_ascii=False))

    @property
    def finished(self) -> list[Run]:
        """The runs whose files are there."""
        return [run for run in self.runs if run.path.exists()]

    @property
    def begun(self) -> list[Run]:
        """The runs that are not finished, and have left a checkpoint."""
        return [run for run in self.runs if not run.path.exists() and any(run.checkpoints.folder.glob("step-*.pt"))]

    def execute(
        self, jobs: int | None = None, on: str = "local", watch: Callable[[float], None] | None = None
    ) -> Generator[dict[str, Any], None, None]:
        """Yield the records of the missing runs as they end; their files are there by then.

        Args:
            jobs: runs at a time; by default as many as the cores have room for, by the threads of each, and on GPUs
                one for each. Runs that take several devices are executed one after another.
            on: `local` for processes on this machine, or `ray` for a cluster.
            watch: is called now and then with how many runs' worth is done of those under way, on this machine.

        Raises:
            ModuleNotFoundError: Ray is asked for and not installed.
        """
        missing = [run for run in self.runs if not run.path.exists()]
        if not missing:
            return

        def told(training: Training) -> None:
            if watch is not None:
                watch(training.progress.step / training.steps)

        if self.setup.world_size > 1:
            results: Iterator[tuple[Run, dict[str, Any]]] = ((run, run.training(told).run()) for run in missing)
        else:
            gpus = torch.cuda.device_count() if self.setup.device == "cuda" else 0
            jobs = jobs or gpus or pools.room(self.setup.threads)
            results = pools.on_ray(missing, gpus) if on == "ray" else pools.local(missing, jobs, gpus, watch)
        for run, record in results:
            if is_main_process():
                run.conclude(record)
            barrier()
            yield record
