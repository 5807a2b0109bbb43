"""One line of a peer: what `turbowan bench --against FILE` reads, one JSON object a case.

peer, version   whose time it is, and the version of its library
name            the function that was called
op, shape       the family of operations and the shape, in the words of benches/cases/*.toml
case            the case of such a file that the shape was taken from, if it was
threads         threads of the host; null on a device
cpu, date       the processor's own name and the hour, UTC: `turbowan report bench` pairs times of one machine and day
median_s, min_s, samples_s   seconds
"""

import datetime
import json
import platform
import statistics
import time
import tomllib


def cpu():
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or None


def print_line(peer, version, name, op, shape, threads, seconds, **more):
    line = {
        "peer": peer,
        "version": version,
        "name": name,
        "op": op,
        "shape": shape,
        "threads": threads,
        "cpu": cpu(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "samples_s": seconds,
    }
    print(json.dumps(line | more), flush=True)


def cases(path, family, sides):
    """The shapes of a file of cases whose operation is of `family`, each once, with the name of its first case.

    Only `sides` of a shape are kept: a peer attends to all blocks, so that `topk` is none of its.
    """
    with open(path, "rb") as file:
        listed = tomllib.load(file)["case"]
    found = {}
    for case in listed:
        if case["op"].split("/")[0] == family:
            shape = {side: case["shape"][side] for side in sides if side in case["shape"]}
            found.setdefault(json.dumps(shape), (case["name"], shape))
    return list(found.values())


def sample(run, repeats, device):
    """Seconds of `repeats` runs after a warm-up: on a GPU by events, with its cache overwritten before each, as ours."""
    run()
    if device == "cpu":
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
        return seconds
    import torch

    cache = torch.empty(2 * torch.cuda.get_device_properties(0).L2_cache_size, dtype=torch.uint8, device=device)
    seconds = []
    for _ in range(2 + repeats):
        cache.fill_(len(seconds))
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        run()
        after.record()
        after.synchronize()
        seconds.append(before.elapsed_time(after) / 1e3)
    return seconds[2:]
