"""Where the Kubernetes API is and who we are to it: from a kubeconfig, or from the service account of our pod.

The files are read again for each new session, so that rotated certificates and authorities are taken up. Texts of
lightkube and of the YAML parser quote what they read, secrets too: they do not leave this module.
"""

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import yaml
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import Cluster, User
from lightkube.core.exceptions import ConfigError as LightkubeConfigError

from flanneld_py.errors import UsageError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts a pod's token and the cluster's authority."""


@dataclass(frozen=True, slots=True)
class KubeAccess:
    """As the flags and the environment say it. `service`: KUBERNETES_SERVICE_HOST and _PORT, where they are set."""

    api_url: str | None = None
    kubeconfig: Path | None = None
    service: tuple[str, str] | None = None
    service_account: Path = SERVICE_ACCOUNT

    @property
    def in_cluster(self) -> bool:
        """Whether we use the address that the cluster gives to its pods."""
        return self.api_url is None and self.kubeconfig is None


def read_config(access: KubeAccess) -> SingleConfig:
    """What lightkube connects with. UsageError names the file or variable that cannot be used."""
    config = _of_service_account(access) if access.kubeconfig is None else _of_file(access.kubeconfig)
    if access.api_url is not None:
        config.cluster.server = access.api_url
    # lightkube asks for a user, if only for one without credentials.
    return config if config.user is not None else config._replace(user=User())


def _of_service_account(access: KubeAccess) -> SingleConfig:
    token, authority = access.service_account / "token", access.service_account / "ca.crt"
    if access.api_url is not None:
        # A token never goes out in the clear, whatever address is given.
        trusted = access.api_url.startswith("https:") and token.exists()
        user = User(token_file=str(token)) if trusted else User()
        ca_file = str(authority) if trusted and authority.exists() else None
        return _single(KubeConfig.from_one(cluster=Cluster(certificate_auth=ca_file), user=user))
    if access.service is None:
        raise UsageError(
            "--kube-subnet-mgr: KUBERNETES_SERVICE_HOST is not set, so this is no pod of a cluster",
            hint="give --kubeconfig-file or --kube-api-url",
        )
    host, port = access.service
    for path in (token, authority):
        if not path.exists():
            raise UsageError(
                f"--kube-subnet-mgr: there is no {path}", hint="set automountServiceAccountToken: true in the pod"
            )
    server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
    cluster = Cluster(server=server, certificate_auth=str(authority))
    return _single(KubeConfig.from_one(cluster=cluster, user=User(token_file=str(token))))


def _of_file(path: Path) -> SingleConfig:
    try:
        config = _single(KubeConfig.from_file(path))
        reason = _of_data(config)
        if reason is None:
            return config
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        reason = f"it is not YAML{line}"
    except (yaml.YAMLError, RecursionError):
        reason = "it is not YAML"
    except LightkubeConfigError:
        reason = "there is no such file" if not path.is_file() else "its current-context is missing or names none"
    except KeyError as error:
        reason = f"it names {error.args[0]!r:.60}, which is not in it"
    except (msgspec.ValidationError, TypeError, AttributeError, ValueError):
        reason = "it has not the shape of a kubeconfig"
    raise UsageError(
        f"--kubeconfig-file: cannot use {path}: {reason}", hint=f"try: kubectl --kubeconfig {path} get nodes"
    )


def _of_data(config: SingleConfig) -> str | None:
    """What is wrong with the certificates and keys in a kubeconfig; lightkube would stumble over it."""
    user = config.user or User()
    for name, text in (
        ("certificate-authority-data", config.cluster.certificate_auth_data),
        ("client-certificate-data", user.client_cert_data),
        ("client-key-data", user.client_key_data),
    ):
        try:
            base64.b64decode(text or "")
        except ValueError:
            return f"its {name} is not base64"
    if (user.client_cert or user.client_cert_data) and not (user.client_key or user.client_key_data):
        return "it has a client certificate, and no client key"
    return None


def _single(config: KubeConfig) -> SingleConfig:
    single = config.get()
    if single is None:
        raise LightkubeConfigError
    return single
