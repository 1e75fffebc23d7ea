"""The least that FastAPI can be, under the same server settings as ours: `python bare.py PORT FILE`."""

import json
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI

CONSTANT: dict[str, Any] = json.loads(Path(sys.argv[2]).read_text())
app = FastAPI()


@app.get("/{path:path}")
def constant() -> dict[str, Any]:
    return CONSTANT


if __name__ == "__main__":
    config = uvicorn.Config(
        app, port=int(sys.argv[1]), log_config=None, access_log=False, server_header=False
    )
    uvicorn.Server(config).run()
