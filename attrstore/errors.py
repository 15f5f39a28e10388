"""What can go wrong, in the user's words: every message names the thing, the place and the fix."""


class AttrstoreError(Exception):
    """The work failed; nothing already committed was lost."""

    exit_code = 1


class InputError(AttrstoreError):
    """The call or what it was given is wrong; the store is as it was."""

    exit_code = 2


class MismatchError(InputError):
    """Something differs from what the store was made with; the message shows both values."""


class StoreError(AttrstoreError):
    """The store cannot be opened or written."""


class Interrupted(AttrstoreError):
    """The user stopped a job; what was committed stays, and the same command goes on."""

    exit_code = 1
