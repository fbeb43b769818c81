"""`python -m cni_plugin install`: the installer, out of the package."""

from cni_plugin.main import main

main()
