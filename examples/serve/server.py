"""Serves `mnv2zoo predict` over HTTP with LitServe (https://lightning.ai/docs/litserve).

pip install -e ".[deploy]" litserve
python examples/serve/server.py --model mnv2zoo_100_c20
curl --data-binary @photo.jpg http://127.0.0.1:8000/predict
"""

import asyncio
import multiprocessing
import signal
from functools import partial
from io import BytesIO
from typing import Annotated, Any

import typer
from fastapi import Body
from fastapi.responses import JSONResponse
from litserve import LitAPI, LitServer
from PIL import Image

from mnv2zoo.data import decode
from mnv2zoo.errors import ImageReadError
from mnv2zoo.inference.predict import Predictor, Settings


class Photos(LitAPI):
    """Predicts waiting images in batches. `settings` names the model and the engine, which are loaded once."""

    def setup(self, device: str) -> None:
        """Loads the model."""
        Image.MAX_IMAGE_PIXELS = 12_500_000  # Pillow rejects images with more than twice as many pixels
        self.predictor = Predictor(self.settings)

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        """Returns the bytes of the image file."""
        return request

    def predict(self, files: list[bytes]) -> list[JSONResponse]:
        """Predicts a batch. An unreadable image fails alone, without failing its batch."""
        how = self.predictor.session.preprocessing
        read = partial(decode.read, where="the request's body", at_least=how.at_least)
        found = [one for _, one in decode.read_all(map(BytesIO, files), how.prepare, read=read)]
        ready = [one for one in found if not isinstance(one, ImageReadError)]
        rows = iter(self.predictor(["body"] * len(ready), ready) if ready else [])
        bad = [JSONResponse({"error": str(one)}, 422) if isinstance(one, ImageReadError) else None for one in found]
        return [answer or JSONResponse(next(rows)) for answer in bad]


def stop(*_: object) -> None:
    """Shuts down gracefully: on an interrupt of the main process, LitServe waits for the requests in progress."""
    raise KeyboardInterrupt if multiprocessing.parent_process() is None else SystemExit


def main(model: str = "mnv2zoo_100_c20", port: int = 8000, max_bytes: int = 10**7, requests: int = 64) -> None:
    """Serves a model: a name, a run or a package. Requests beyond the limit of concurrent requests get status 503."""
    slots = asyncio.Semaphore(requests)

    def limited(app: Any) -> Any:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            if scope.get("path") != "/predict":
                await app(scope, receive, send)
            elif slots.locked():
                await JSONResponse({"error": "too many"}, 503, {"Retry-After": "1"})(scope, receive, send)
            else:
                async with slots:
                    await app(scope, receive, send)

        return answer

    signal.signal(signal.SIGTERM, stop)
    photos = Photos(max_batch_size=16, batch_timeout=0.002)
    photos.settings = Settings(model, engine="openvino")
    server = LitServer(photos, "cpu", healthcheck_path="/healthz", max_payload_size=max_bytes, middlewares=[limited])
    server.run("127.0.0.1", port, generate_client_file=False)


if __name__ == "__main__":
    typer.run(main)
