"""A custom runtime for MLServer, as its guide writes one: ONNX Runtime, NumPy in and out."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.codecs import NumpyCodec, NumpyRequestCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri
from predictors import Predictor


class OnnxModel(MLModel):
    """One ONNX file."""

    async def load(self) -> bool:
        """Load the file that the settings name."""
        folder = await get_model_uri(self._settings)
        self._predictor = Predictor("onnx", folder)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Predict a matrix."""
        rows = self.decode_request(payload, default_codec=NumpyRequestCodec)
        output = NumpyCodec.encode_output("scores", self._predictor(rows))
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
