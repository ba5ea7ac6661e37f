"""The device half of the TensorRT backend: finishes a section on its board, loads the engine and
its weights, and says what is missing where it cannot. Knows neither the compiler nor ONNX.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from arkinfer.artifact import Artifact, Section
from arkinfer.errors import ArtifactError
from arkinfer.runtime.contract import Demand, LoadOptions
from arkinfer.runtime.prepared import Prepared
from arkinfer_trt.board import OLDEST, Gpu, check_gpu, check_memory, check_software, read_board
from arkinfer_trt.cuda import Cuda, Memory
from arkinfer_trt.embedding import Embedding
from arkinfer_trt.engine import Engine, Unreadable
from arkinfer_trt.executable import TensorRTExecutable
from arkinfer_trt.loading import upload
from arkinfer_trt.numbers import inputs
from arkinfer_trt.prepare import Preparation, Ready
from arkinfer_trt.section import TensorRTSection
from arkinfer_trt.store import EngineKey, Store

T = TypeVar("T")

WANTED = f">={'.'.join(map(str, OLDEST))}"
"""Of TensorRT, where a section says nothing else."""

_MALFORMED = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What reading a section raises that the compiler did not write."""


class TensorRTExecutor:
    """Entry point "tensorrt" of the group `arkinfer.executors`; a `Checker` and a `Preparer`."""

    name = "tensorrt"

    def open(
        self, artifact: Artifact, section: Section, options: LoadOptions
    ) -> TensorRTExecutable:
        """Loads the engine that is kept, or makes one; then its weights, once.

        Raises:
            DeviceError: this machine lacks TensorRT, memory or whatever else the section needs.
            ArtifactError: the section is not what the compiler writes.
            UsageError: the section has no such network.
            ImportError: a package is missing.
        """
        preparation = _begun(artifact, section, options)
        try:
            ready, engine = _engine(preparation)
            executable = _loaded(preparation, ready, engine)
            try:
                _tell(options, ready.prepared, executable.warm_up())
            except BaseException:
                executable.close()
                raise
            return executable
        except BaseException as error:
            preparation.cuda.close()
            if isinstance(error, _MALFORMED):
                raise _unreadable(artifact, error) from error
            raise

    def check_device(self) -> None:
        """See `runtime.contract.DeviceChecker`."""
        check_software(read_board(), WANTED)
        Cuda().close()

    def check(self, artifact: Artifact, section: Section) -> Demand:
        """Whether `open` would get as far as the engine; see `runtime.contract.Checker`."""
        begun = _begun(artifact, section, LoadOptions())
        begun.cuda.close()
        per_token = begun.section.cache_bytes // begun.section.context
        return Demand(artifact.section_bytes(self.name), per_token)

    def prepared(
        self, artifact: Artifact, section: Section, options: LoadOptions
    ) -> Prepared | None:
        """See `runtime.contract.Preparer`."""
        return _asked(artifact, section, options, Preparation.known)

    def prepare(self, artifact: Artifact, section: Section, options: LoadOptions) -> Prepared:
        """See `runtime.contract.Preparer`."""
        return _asked(artifact, section, options, lambda begun: _engine(begun)[0].prepared)


def _asked(
    artifact: Artifact, section: Section, options: LoadOptions, what: Callable[[Preparation], T]
) -> T:
    begun = _begun(artifact, section, options)
    try:
        return what(begun)
    except _MALFORMED as error:
        raise _unreadable(artifact, error) from error
    finally:
        begun.cuda.close()


def _begun(artifact: Artifact, section: Section, options: LoadOptions) -> Preparation:
    """Everything that an engine is made of and for, after the checks that need no engine.

    Raises:
        DeviceError, ArtifactError, ImportError: see `TensorRTExecutor.open`.
    """
    try:
        facts = TensorRTSection.from_json(section.config)
    except _MALFORMED as error:
        raise _unreadable(artifact, error) from error
    board = read_board()
    check_software(board, section.requires.get("tensorrt", WANTED))
    cuda = Cuda()
    try:
        gpu = Gpu(cuda.name, cuda.sm, *cuda.free_memory())
        check_gpu(gpu, facts.sm)
        key = EngineKey(
            artifact.digest,
            board.software.tensorrt,
            gpu.sm,
            board.device(gpu),
            options.network or "",
            options.weights or "",
        )
        store = Store(options.cache)
        return Preparation(artifact, facts, options, board, gpu, cuda, store, key)
    except BaseException:
        cuda.close()
        raise


def _engine(preparation: Preparation) -> tuple[Ready, Engine]:
    """The engine that is kept, else a new one; also where TensorRT makes nothing of the old one."""
    ready = preparation.ready()
    try:
        return ready, Engine(ready.plan)
    except Unreadable as error:
        if not ready.prepared.reused:
            raise
        ready = preparation.make(f"The engine that was kept is made again. {error}")
        return ready, Engine(ready.plan)


def _loaded(preparation: Preparation, ready: Ready, engine: Engine) -> TensorRTExecutable:
    section, artifact, cuda = preparation.section, preparation.artifact, preparation.cuda
    for cache in section.caches:
        engine.check_alias(f"present.{cache.name}", f"past.{cache.name}")
    wanted = [w for w in section.weights if engine.inputs.issuperset(w.inputs)]
    sizes = [sum(i.nbytes for i in inputs(w, section.dtype).values()) for w in wanted]
    _check_memory(preparation, ready.plan.nbytes + sum(sizes))
    memory = Memory(cuda)
    try:
        addresses: dict[str, int] = {}
        for done, weight in enumerate(wanted):
            preparation.report("Loading the weights", sum(sizes[:done]), sum(sizes))
            addresses |= upload(artifact, weight, section.dtype, cuda, memory)
        preparation.report("Loading the weights", sum(sizes), sum(sizes))
        embedding = Embedding(artifact, section)
        return TensorRTExecutable(section, engine, cuda, addresses, memory, embedding)
    except BaseException:
        memory.close()
        raise


def _tell(options: LoadOptions, prepared: Prepared, slower: str) -> None:
    if options.on_prepared is not None:
        notes = (*prepared.notes, slower) if slower else prepared.notes
        options.on_prepared(replace(prepared, notes=notes))


def _check_memory(preparation: Preparation, loaded: int) -> None:
    """Raises DeviceError unless there is memory for an engine, its weights and a sequence."""
    need = loaded + preparation.section.cache_bytes
    instead = "Build the artifact with a smaller context or fewer bits"
    check_memory(preparation.board, preparation.gpu, need, "Running the model", instead)


def _unreadable(artifact: Artifact, error: Exception) -> ArtifactError:
    return ArtifactError(
        f'The section "{TensorRTExecutor.name}" of "{artifact.path}" cannot be read',
        f"{type(error).__name__}: {error}",
        "Build the artifact again",
    )
