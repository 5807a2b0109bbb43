"""One line of a peer: what `turbowan bench --against FILE` reads, one JSON object a case.

peer, version   whose time it is, and the version of its library
name            the function that was called
op, shape       the family of operations and the shape, in the words of benches/cases/*.toml
threads         threads of the host; null on a device
median_s, min_s, samples_s   seconds
"""

import json
import statistics


def print_line(peer, version, name, op, shape, threads, seconds, **more):
    line = {
        "peer": peer,
        "version": version,
        "name": name,
        "op": op,
        "shape": shape,
        "threads": threads,
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "samples_s": seconds,
    }
    print(json.dumps(line | more), flush=True)
