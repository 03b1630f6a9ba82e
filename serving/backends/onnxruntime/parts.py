"""How a batch of requests is cut into runs of few rows. Knows row counts alone.

Nothing is won by more rows on a CPU, and memory grows with them (Swin-T with an FPN at 224 px in OpenVINO, 2 cores, 12 turns: 16.5 tiles/s at 8 and 16 rows,
15.9 at 64; resident 507 MB at 8, 643 at 16, 1,454 at 64).
"""

RUN_ROWS = 16  # what a slide's client sends in one request: it then always runs as the same batch, whoever else calls


def group(sizes, run_rows=RUN_ROWS):
    """Row counts of requests, in order → slices of requests that are run together: at most `run_rows` rows, or one larger request."""
    groups, start, rows = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and rows + size > run_rows:
            groups.append(slice(start, index))
            start, rows = index, 0
        rows += size
    return [*groups, slice(start, len(sizes))]


def cut(rows, run_rows=RUN_ROWS):
    """A request's rows → slices of at most `run_rows`; none of 0 rows but the only one."""
    return [slice(start, min(start + run_rows, rows)) for start in range(0, max(rows, 1), run_rows)]
