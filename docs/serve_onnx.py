"""Answers over HTTP with the ONNX file that radlake export wrote into FOLDER, without TensorFlow.

python docs/serve_onnx.py FOLDER [PORT]; curl --data-binary @a.dcm http://127.0.0.1:PORT
"""

import io
import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
from PIL import Image

from lake import Reject
from lake.labels import rle
from lake.predictions.exported import settings_from_json
from lake.sources import reader

FOLDER, PORT = Path(sys.argv[1]), int([*sys.argv, "8500"][2])
SETTINGS = settings_from_json(json.loads((FOLDER / "export.json").read_text())["stored"])
SESSION = onnxruntime.InferenceSession(FOLDER / "model.onnx")


def predict(data: bytes) -> dict:
    """Return the outputs for the first image of a file; raise Reject for what is none."""
    source, headers = reader.read_file(io.BytesIO(data), "the file", len(data), SETTINGS, "")
    files = SimpleNamespace(read=lambda path: data)
    scan = reader.read_scan(source, files, headers[0], SETTINGS.storage)
    pixels = np.array([Image.open(io.BytesIO(scan.image))])
    values = SESSION.run(None, {"pixels": pixels, "window": np.float32([scan.window])})
    names = [output.name for output in SESSION.get_outputs()]
    answer = {name: value[0] for name, value in zip(names, values, strict=True)}
    if "mask" in answer:
        answer["rle"] = np.array(rle.encode(answer.pop("mask")))
    return {name: value.tolist() for name, value in answer.items()} | {"size": pixels.shape[1:]}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        try:
            status, answer = 200, predict(self.rfile.read(int(self.headers["Content-Length"])))
        except Reject as reject:
            status, answer = 400, {"error": str(reject)}
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())


if __name__ == "__main__":
    server = HTTPServer(("127.0.0.1", PORT), Handler)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
