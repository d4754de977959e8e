"""A run file as a JSON schema (draft 2020-12), for editors."""

from __future__ import annotations

from typing import Any

from pipeline.config import RunConfig

__all__ = ["DIALECT", "config_schema"]

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema() -> dict[str, Any]:
    """Give the schema of a run file: every key, its type, its bounds, its default and meaning.

    What two keys must have in common is not in it: that is checked when a run file is read.
    """
    made = RunConfig.model_json_schema()
    return {"$schema": DIALECT, **made, "title": "wsi-pipeline run file"}
