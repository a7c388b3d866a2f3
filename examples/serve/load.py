"""Load-tests the service of `server.py` at twice its capacity, and writes the results to `docs/results/service.json`.

    python examples/serve/load.py photos --seconds 20

The script starts the service and measures its throughput with the maximum number of concurrent requests. Then it sends
twice as many requests per second, without waiting for responses. Each response must match its own image or have status
503. Finally it stops the service with SIGTERM while requests are in progress, and all of them must be answered.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

import mnv2zoo
from mnv2zoo.system import posix
from mnv2zoo.system.files import whole_file

ROOT = Path(__file__).resolve().parents[2]
PATH = ROOT / "docs/results/service.json"
MODEL = "mnv2zoo_100_c20"


class Client:
    """Sends images and records the responses.

    Attributes:
        answers: The status of each request, or the name of the error if there was no response, and its seconds.
    """

    def __init__(self, session: aiohttp.ClientSession, url: str, files: list[bytes], labels: list[str]) -> None:
        self.session, self.url, self.files, self.labels = session, url, files, labels
        self.sent, self.answers = 0, list[tuple[str, float]]()

    async def send(self) -> None:
        """Sends the next image."""
        which = self.sent % len(self.files)
        self.sent += 1
        began = time.perf_counter()
        try:
            async with self.session.post(self.url, data=self.files[which]) as response:
                row, status = await response.json(), str(response.status)
            if status == "200" and row["predictions"][0]["label"] != self.labels[which]:
                status = "another image's answer"
        except (aiohttp.ClientError, TimeoutError) as error:
            status = type(error).__name__
        self.answers.append((status, time.perf_counter() - began))

    def taken(self) -> list[tuple[str, float]]:
        """Returns the responses since the last call."""
        answers, self.answers = self.answers, []
        return answers


async def capacity(client: Client, at_once: int, seconds: float) -> float:
    """Measures the responses per second with a number of concurrent requests."""
    ends = time.perf_counter() + seconds

    async def keep_sending() -> None:
        while time.perf_counter() < ends:
            await client.send()

    await asyncio.gather(*(keep_sending() for _ in range(at_once)))
    answers = client.taken()
    if any(status != "200" for status, _ in answers):
        raise SystemExit(f"within its limit, the service answered {Counter(status for status, _ in answers)}")
    return len(answers) / seconds


async def overload(client: Client, rate: float, seconds: float) -> dict[str, Any]:
    """Sends requests at a fixed rate, and reports the responses and their latency."""
    began, tasks = time.perf_counter(), []
    for number in range(round(rate * seconds)):
        await asyncio.sleep(max(0, began + number / rate - time.perf_counter()))
        tasks.append(asyncio.create_task(client.send()))
    sent = time.perf_counter() - began
    await asyncio.gather(*tasks)
    return {"sent_per_second": round(len(tasks) / sent, 1), "sent": len(tasks)} | summary(client.taken())


def summary(answers: list[tuple[str, float]]) -> dict[str, Any]:
    """Counts responses by status, with latency percentiles."""
    found: dict[str, Any] = {"answers": dict(sorted(Counter(status for status, _ in answers).items()))}
    for status in ("200", "503"):
        if times := [1000 * seconds for own, seconds in answers if own == status]:
            found[f"ms_{status}"] = {f"p{p}": round(float(np.percentile(times, p)), 1) for p in (50, 99)}
    return found


async def measure(args: argparse.Namespace, service: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Waits until the service is ready, and measures it."""
    paths = sorted(path for path in args.photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))[:100]
    rows = mnv2zoo.predict([str(path) for path in paths], MODEL, engine="openvino")
    labels = [row["predictions"][0]["label"] for row in rows]
    base = f"http://127.0.0.1:{args.port}"
    connections = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connections, timeout=aiohttp.ClientTimeout(60)) as session:
        for _ in range(600):
            await asyncio.sleep(0.1)
            try:
                async with session.get(f"{base}/healthz") as response:
                    if response.status == 200:
                        break
            except aiohttp.ClientError:
                pass
        client = Client(session, f"{base}/predict", [path.read_bytes() for path in paths], labels)
        await capacity(client, args.requests, 2)
        most = await capacity(client, args.requests, args.seconds)
        found = {"images_per_second": round(most, 1), "overload": await overload(client, 2 * most, args.seconds)}
        waiting = [asyncio.create_task(client.send()) for _ in range(args.requests)]
        await asyncio.sleep(0.05)
        service.send_signal(signal.SIGTERM)
        await asyncio.gather(*waiting)
        return found | {"stop": {"sent": args.requests} | summary(client.taken())}


def main() -> None:
    """Starts the service, load-tests it, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="a folder of photos")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--requests", type=int, default=64, help="maximum number of concurrent requests of the service")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--results", type=Path, default=PATH)
    args = parser.parse_args()
    words = ["--model", MODEL, "--port", str(args.port), "--requests", str(args.requests)]
    service = subprocess.Popen([sys.executable, str(Path(__file__).with_name("server.py")), *words])
    try:
        found = asyncio.run(measure(args, service))
        found["stop"]["exit_status"] = service.wait(60)
    finally:
        service.kill()
    found |= {"requests": args.requests, "seconds": args.seconds, "processor": posix.cpu_info("model name")}
    with whole_file(args.results) as file:
        file.write((json.dumps(found, indent=2) + "\n").encode())
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
