# Sourced by deploy/quickstart and tests/run: a Python, the Debian packages that are missing, a virtual environment.
# POSIX sh. The caller defines `say` (a progress line) and `die` (one line on stderr, then exit 1).

# python_works COMMAND - true if it is Python 3.11 or newer that can make a virtual environment.
python_works() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1
}

# first_python - prints the first command that works; false if none does.
first_python() {
    for candidate in python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
        if python_works "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# apt_install PACKAGE... - false, with the package manager's last words on stderr, if they cannot be installed.
apt_install() {
    say "installing with apt-get: $*"
    apt_log=$(mktemp)
    if { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } \
        </dev/null >"$apt_log" 2>&1; then
        rm -f "$apt_log"
        return 0
    fi
    tail -n 5 "$apt_log" >&2
    rm -f "$apt_log"
    return 1
}

can_apt() {
    command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ]
}

# need_python - sets PYTHON, installing it where that is possible.
need_python() {
    PYTHON=$(first_python) && return 0
    if can_apt; then
        apt_install python3 python3-venv || die "apt-get could not install python3 and python3-venv; mend apt, then run this again"
        PYTHON=$(first_python) && return 0
        die "the python3 of this release is older than 3.11 or does not run; install Python 3.11 or newer with its venv module, then run this again"
    fi
    die "no Python 3.11 or newer with the venv module found; install it (Debian: apt-get install python3 python3-venv), then run this again"
}

# has_compiler - true if C extensions for $PYTHON can be built.
has_compiler() {
    { command -v cc || command -v gcc; } >/dev/null 2>&1 &&
        "$PYTHON" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

# need_compiler - installs one where that is possible; says what it means where it is not.
need_compiler() {
    has_compiler && return 0
    if can_apt; then
        apt_install gcc libc6-dev python3-dev || say "apt-get could not install gcc, libc6-dev and python3-dev"
        has_compiler && return 0
    fi
    say "no C compiler with Python's headers: the udp backend works, but its packets are carried by Python, many times slower"
}

# sources_of CHECKOUT - prints a sum over all that decides what is installed.
sources_of() {
    cat "$1/pyproject.toml" "$1/deploy/compiling.py" "$1/flanneld_py/dataplane/stamp.py" "$1"/flanneld_py/dataplane/*.[ch] | cksum
}

# need_venv CHECKOUT EXTRA - sets VENV to CHECKOUT/.venv, with the package installed in it as an editable one with EXTRA.
# Installs again only when what decides the result has changed: pyproject.toml, the C sources and whether they can be
# built, the place, or the Python.
need_venv() {
    VENV=$1/.venv
    stamp=$VENV/.installed-$2
    wanted=$(sources_of "$1")" $1 $(has_compiler && echo native) "$("$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)')
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && "$VENV/bin/python" -c 'import flanneld_py' 2>/dev/null; then
        return 0
    fi
    # One that was copied or moved here, or that lost its Python, does not work: pyvenv.cfg tells where it was made.
    if ! grep -qF " $VENV" "$VENV/pyvenv.cfg" 2>/dev/null || ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        say "making the virtual environment $VENV"
        "$PYTHON" -m venv --clear "$VENV" </dev/null || die "cannot make a virtual environment in $VENV; see the lines above"
    fi
    say "installing flanneld-py[$2] into $VENV (about a minute the first time)"
    rm -f "$stamp"
    if ! "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --use-pep517 --editable "$1[$2]" </dev/null; then
        die "pip could not install flanneld-py[$2]; check the network and the lines above, then run this again"
    fi
    # A failed build of the C extension is no error to setuptools, which says nothing of it.
    if has_compiler && ! "$VENV/bin/python" -c 'import flanneld_py.dataplane._native' 2>/dev/null; then
        say "the native pump of the udp backend could not be built; its packets are carried by Python, many times slower"
    fi
    echo "$wanted" >"$stamp"
}
