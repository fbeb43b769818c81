"""The version, alone in a file: `flanneld --version` must not pay for reading package metadata."""

VERSION = "0.1.0"
