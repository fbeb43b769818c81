"""Every error that an operator may see: one line that says what failed, on what and why; `hint` says what mends it."""


class FlannelError(Exception):
    """Base of the tree. `cli` prints message and hint, and exits with `exit_code`; nothing below `cli` exits."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}; {self.hint}"


class UsageError(FlannelError):
    """A flag or argument that cannot be used as given."""

    exit_code = 2


class ConfigError(FlannelError):
    """A value in the network configuration that cannot be used. The message names key, value and reason."""

    exit_code = 2


class InterfaceError(FlannelError):
    """No interface or address fits what was asked for."""


class KernelError(FlannelError):
    """The kernel refused something that cannot be mended by trying again."""

    def __init__(self, message: str, *, hint: str | None = None, errno: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.errno = errno


class StoreError(FlannelError):
    """The store answered, and its answer stops us."""


class ConfigMissing(StoreError):
    """There is no network configuration in the store."""


class SubnetTaken(StoreError):
    """Another node created the key between our read and our transaction. The caller picks another subnet."""


class OutOfSubnets(StoreError):
    """No subnet of the network is free."""


class DuplicatePublicIP(StoreError):
    """Another machine holds a lease under our public address."""


class LeaseLost(StoreError):
    """Our own lease was revoked, expired, or is now another node's."""


class AccessDenied(StoreError):
    """The store refuses our credentials or our certificate: waiting does not mend it."""


class LabError(FlannelError):
    """The lab could not be built, found or removed."""
