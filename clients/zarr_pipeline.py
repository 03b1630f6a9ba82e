"""Who encodes and decodes zarr's chunks in this process: zarrs (Rust), at a third of the CPU time. Import it wherever zarr is imported.

One thread: with several, zarrs puts a shard's chunks down in the order in which they get ready, and an interrupted slide would not end with the
same bytes. What it cannot do (zarr format 2) zarr does itself.
"""

from __future__ import annotations

import zarr

zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "threading.max_workers": 1})
