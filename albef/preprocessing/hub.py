"""The Hugging Face Hub, or only its cache if the Hub cannot be reached."""

import logging
from functools import cache

WAIT_S = 5.0
"""Seconds to wait for an answer of the Hub."""
REMEDY = "name a local folder or file, or fill the cache on a machine with a network"
log = logging.getLogger("albef")


@cache
def prepare_hub() -> None:
    """Use only the cache in this process if the Hub does not answer, as HF_HUB_OFFLINE=1 does.

    Without this check, the libraries retry each file for minutes.
    """
    from huggingface_hub import constants, get_session

    if constants.is_offline_mode():
        return
    try:
        get_session().head(constants.ENDPOINT, timeout=WAIT_S)
    except Exception as error:  # the HTTP library depends on the version
        log.warning(
            "%s cannot be reached (%s); using only the cache, as with HF_HUB_OFFLINE=1",
            constants.ENDPOINT,
            error,
        )
        constants.HF_HUB_OFFLINE = True
