"""Files of a data set on the Hugging Face Hub, named as `hf://datasets/OWNER/NAME[@REVISION]/PATH`."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from attrstore.errors import InputError

PREFIX = "hf://"
_ADDRESS = re.compile(r"hf://datasets/(?P<repo>[^/@]+/[^/@]+)(?:@(?P<revision>[^/]+))?/(?P<path>.+)")
_FORM = (
    "hf://datasets/OWNER/NAME/PATH or hf://datasets/OWNER/NAME@REVISION/PATH, PATH a file, a folder or a glob"
)
_CONVERTED = "refs/convert/parquet"  # where the Hub keeps every data set as parquet; written ~parquet


def local(address: str) -> Path:
    """Return where the file, folder or glob of an address lies in the Hub's cache, downloading what is not there.

    Raises `InputError` where it is no such address, or where nothing can be had.
    """
    found = _ADDRESS.fullmatch(address.rstrip("/"))
    if found is None:
        raise InputError(f"{address}: not an address of a data set's files on the Hub. Give {_FORM}.")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError as error:
        raise InputError(
            f"{address}: huggingface_hub is not installed. pip install 'attrstore[model]'"
        ) from error
    revision = found["revision"] and unquote(found["revision"]).replace("~parquet", _CONVERTED)
    try:
        folder = snapshot_download(
            found["repo"], repo_type="dataset", revision=revision,
            allow_patterns=[found["path"], f"{found['path']}/*"],
        )  # fmt: skip
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        said = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{address}: cannot be had from the Hub, nor is it in its cache here. {said}"
        ) from error
    return Path(folder) / found["path"]
