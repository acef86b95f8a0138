# Sourced by the run scripts of the SDK tests: the service's environment, and the official packages in the
# cache (never in the tree). Needs $root.

cache=${XDG_CACHE_HOME:-$HOME/.cache}/atoll
export ATOLL="${ATOLL:-$root/atoll}"

fingerprint() {
	cat "$@" | sha256sum | cut -c1-12
}

prepare_env() {
	[ -n "${E2B_API_URL:-}" ] && return 0
	exports=$("$ATOLL" env) || {
		echo "the service is not running: make up" >&2
		return 1
	}
	eval "$exports"
}

# Sets $js, a directory with the npm packages and, beside them, copies of our scripts: Node looks for packages
# from where a script is.
prepare_js() {
	js=$cache/npm-$(fingerprint "$root/tests/acceptance/package-lock.json")
	if [ ! -e "$js/complete" ]; then
		echo "installing the npm packages into $js"
		rm -rf "$js"
		mkdir -p "$js"
		cp "$root/tests/acceptance/package.json" "$root/tests/acceptance/package-lock.json" "$js/"
		(cd "$js" && npm ci --no-audit --no-fund --loglevel=error) || return 1
		touch "$js/complete"
	fi
	cp "$root"/tests/acceptance/*.mjs "$root"/tests/bench/*.mjs "$js/"
}

# Sets $py, a virtual environment with the packages from PyPI. 2 when PyPI is out of reach, 1 on other failures.
prepare_py() {
	py=$cache/venv-$(fingerprint "$root/tests/acceptance/requirements.txt")
	[ -e "$py/complete" ] && return 0
	echo "installing the Python packages into $py"
	rm -rf "$py"
	mkdir -p "$cache"
	"${ATOLL_ACCEPTANCE_PYTHON:-python3}" -m venv "$py" || return 1
	"$py/bin/python" -m pip install --quiet --disable-pip-version-check --retries 2 --timeout 20 \
		-r "$root/tests/acceptance/requirements.txt" >"$cache/pip.log" 2>&1 || return 2
	touch "$py/complete"
}
