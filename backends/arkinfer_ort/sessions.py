"""Makes sessions of ONNX Runtime on one model: to run it, to see its values, to time its kernels.

Knows no artifact and no state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from arkinfer.errors import ArkError, DeviceError
from arkinfer_ort.wire import with_outputs

if TYPE_CHECKING:
    import onnxruntime

SPIN = 50
"""Microseconds for which a thread without work waits actively; ONNX Runtime 1.26 and later.

The default is tens of milliseconds. Measured with a 0.5B model on two cores: alone on the machine,
a token takes the same time with 20, 50, 100 and the default, and 15 % more with none; at a load of
eight it takes 54, 61, 65 and 98 ms. Slower cores need longer for the ops that use one thread only,
so that the shortest time would put the others to sleep in between.
"""


@dataclass(frozen=True)
class Model:
    """A graph, and how to run it.

    Attributes:
        data: the serialized model.
        folder: where the files of its initializers are.
        threads: of every session.
    """

    data: bytes
    folder: str
    threads: int

    def session(
        self, outputs: Iterable[str] = (), trace: str | None = None
    ) -> onnxruntime.InferenceSession:
        """A session; each one has the weights in its own layouts, in memory of its own.

        Args:
            outputs: values that it gives beside its own outputs.
            trace: how the name of a file begins that gets what its kernels take; None: no trace.

        Raises:
            DeviceError: ONNX Runtime refuses the model.
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # holds a chunk's buffers twice, 34 MiB, for no speed
        options.log_severity_level = 4  # what fails is raised; nothing else goes to the terminal
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN))
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", self.folder
        )
        options.add_session_config_entry("mlas.use_lut_gemm", "1")  # products with two bits only
        if trace is not None:
            options.enable_profiling, options.profile_file_prefix = True, trace
        model = with_outputs(self.data, outputs)
        try:
            return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except ArkError:
            raise
        except Exception as error:  # its exceptions have no base but this
            raise DeviceError(
                f"ONNX Runtime {onnxruntime.__version__} refuses the model",
                str(error).strip(),
                "Check the file with: arkinfer verify; then build it again on this machine",
            ) from error
