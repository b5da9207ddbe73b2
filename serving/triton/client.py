"""A Triton client over gRPC: pinned versions only, and no return code is trusted without checking the index.

Observed of the server: a load may return OK and leave versions unavailable; a crashed model process stays "ready"
forever; a request may wait in the queue past its time-out. So a load counts once the index says READY and a synthetic
request succeeds, and every call carries a client-side time-out.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from market.errors import ServiceError
from serving.runtimes.protocol import Step
from serving.triton.repository import state_width_key

Floats = NDArray[np.float32]

READY = "READY"
LOAD_TIMEOUT_S = 60.0
CALL_TIMEOUT_S = 2.0
_POLL_S = 0.05


class Address(Protocol):
    """Anything that prints as ``host:port``."""

    def __str__(self) -> str: ...


class TritonClient:
    """One connection; a context manager. Use one per thread.

    Every method raises :class:`~market.errors.ServiceError` when the server is unreachable, refuses or does not
    respond in time.
    """

    def __init__(self, address: Address) -> None:
        from tritonclient.grpc import InferenceServerClient

        self.address = str(address)
        # grpc would send even loopback calls through the environment's HTTP proxy
        self._client = InferenceServerClient(self.address, channel_args=[("grpc.enable_http_proxy", 0)])

    def __enter__(self) -> TritonClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._client.close()

    # -- inference ----------------------------------------------------------------------------------------------

    def predict(
        self, model: str, version: int, features_BF: Floats, state_BH: Floats, timeout_s: float = CALL_TIMEOUT_S
    ) -> tuple[Floats, Floats]:
        """One network step of ``B`` lanes: probabilities (B, P) and new state (B, H)."""
        from tritonclient.grpc import InferInput

        inputs = []
        for name, array in (("features", features_BF), ("state", state_BH)):
            tensor = InferInput(name, list(array.shape), "FP32")
            tensor.set_data_from_numpy(np.ascontiguousarray(array, np.float32))
            inputs.append(tensor)
        answer = self._call(
            f"infer with {model} version {version}",
            lambda: self._client.infer(model, inputs, model_version=str(version), client_timeout=timeout_s),
        )
        probs, state_out = answer.as_numpy("probs"), answer.as_numpy("state_out")
        if probs is None or state_out is None or len(probs) != len(features_BF) or state_out.shape != state_BH.shape:
            raise ServiceError(
                f"{model} version {version} at {self.address} returned no usable outputs; "
                f"is its environment the one that infra/triton/install.sh makes?"
            )
        return probs, state_out

    def step(self, model: str, version: int) -> Step:
        """The model as a step function, for :func:`serving.bundle.check_golden`."""
        return lambda features, state: self.predict(model, version, features, state)

    def check(self, model: str, version: int) -> None:
        """Send one synthetic request: the only proof that a version's process is alive."""
        features, state = self._synthetic(model, version)
        self.predict(model, version, features, state)

    def revive(self, model: str, versions: Iterable[int]) -> tuple[int, ...]:
        """Check each version and load the model again if one does not answer. Returns those that had not answered."""
        wanted = tuple(versions)
        dead = tuple(version for version in wanted if not self._answers(model, version))
        if dead:
            self.load(model, wanted)
        return dead

    # -- control ------------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether a server responds at all."""
        try:
            return bool(self._call("ask whether it is ready", lambda: self._client.is_server_ready(client_timeout=2.0)))
        except ServiceError:
            return False

    def index(self, model: str) -> dict[int, tuple[str, str]]:
        """``{version: (state, reason)}`` of the versions the server knows."""
        answer = self._call(
            "read the index", lambda: self._client.get_model_repository_index(client_timeout=CALL_TIMEOUT_S)
        )
        return {int(m.version): (m.state, m.reason) for m in answer.models if m.name == model and m.version}

    def served(self, model: str) -> tuple[int, ...]:
        """Versions the index calls READY, ascending."""
        return tuple(sorted(version for version, (state, _) in self.index(model).items() if state == READY))

    def load(self, model: str, versions: Iterable[int], timeout_s: float = LOAD_TIMEOUT_S) -> None:
        """Load what the repository publishes and wait until each of ``versions`` is ready and answers.

        Raises:
            ServiceError: a version did not become ready; the message has the server's reason. Versions that served
                before stay in service.
        """
        wanted = sorted(set(versions))
        self._call(f"load {model}", lambda: self._client.load_model(model, client_timeout=timeout_s))
        deadline = time.monotonic() + timeout_s
        while True:
            index = self.index(model)
            missing = [version for version in wanted if index.get(version, ("", ""))[0] != READY]
            if not missing:
                break
            failed = {v: index[v][1] for v in missing if v in index and index[v][0] == "UNAVAILABLE"}
            if failed or time.monotonic() > deadline:
                raise ServiceError(
                    f"{model} version {missing} did not become ready at {self.address}: {failed or 'no reason given'}"
                )
            time.sleep(_POLL_S)
        for version in wanted:
            self.check(model, version)

    def unload(self, model: str) -> None:
        """Take every version of a model out of service and wait until none is."""
        self._call(f"unload {model}", lambda: self._client.unload_model(model, client_timeout=LOAD_TIMEOUT_S))
        deadline = time.monotonic() + LOAD_TIMEOUT_S
        while any(state in (READY, "UNLOADING") for state, _ in self.index(model).values()):
            if time.monotonic() > deadline:
                raise ServiceError(f"{model} is still being unloaded by {self.address} after {LOAD_TIMEOUT_S:.0f} s")
            time.sleep(_POLL_S)

    # -- inside -------------------------------------------------------------------------------------------------

    def _answers(self, model: str, version: int) -> bool:
        try:
            self.check(model, version)
        except ServiceError:
            return False
        return True

    def _synthetic(self, model: str, version: int) -> tuple[Floats, Floats]:
        answer = self._call(
            f"read the configuration of {model}",
            lambda: self._client.get_model_config(model, str(version), client_timeout=CALL_TIMEOUT_S),
        )
        inputs = next(tensor.dims[0] for tensor in answer.config.input if tensor.name == "features")
        state = int(answer.config.parameters[state_width_key(version)].string_value)
        return np.zeros((1, inputs), np.float32), np.zeros((1, state), np.float32)

    def _call(self, what: str, call: Any) -> Any:
        from tritonclient.utils import InferenceServerException

        try:
            return call()
        except InferenceServerException as error:
            raise ServiceError(f"Triton at {self.address} did not {what}: {error.message()}") from None
