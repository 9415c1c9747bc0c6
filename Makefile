# `make help` lists the verbs. Everything here works on a fresh Debian machine with cargo; what is missing is
# installed by the verbs that need it.

.DEFAULT_GOAL := help
CARGO ?= cargo
TARGET := x86_64-unknown-linux-gnu
FUZZ_SECONDS ?= 60
# The Debian packages of the real clients and servers that the tests use.
TEST_PACKAGES := redis-server swaks libnet-ssleay-perl postfix
# Where etcd, kube-apiserver and kubectl come from when KUBEBUILDER_ASSETS does not name their folder.
CLUSTER ?= $(firstword $(wildcard ../shared/cluster/cluster ../../shared/cluster/cluster) cluster)
APISERVER := if [ -z "$$KUBEBUILDER_ASSETS" ] && [ -x $(CLUSTER) ]; then \
	  $(CLUSTER) bin && eval "$$($(CLUSTER) env | grep KUBEBUILDER_ASSETS)"; fi;

.PHONY: help
help: ## lists the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## builds the program for development: target/debug/tdc
	$(CARGO) build --locked -p tdc

.PHONY: build-failpoints
build-failpoints: ## builds the same with named places at which tests let it die: target/debug/tdc-failpoints
	$(CARGO) build --locked -p tdc --features failpoints --bin tdc-failpoints

.PHONY: release
release: ## builds the static release program: target/x86_64-unknown-linux-gnu/release/tdc
	CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static" \
	  $(CARGO) build --locked --release -p tdc --target $(TARGET)

.PHONY: demo
demo: build ## runs the main job here, with sample mail, and checks every byte
	./target/debug/tdc demo

.PHONY: demo-up
demo-up: build ## the same, and keeps it running for mail of your own
	./target/debug/tdc demo --keep

.PHONY: test
test: test-tools build build-failpoints ## runs all tests: units, properties, both queues, real processes and clients
	$(APISERVER) $(CARGO) test --locked --workspace

.PHONY: test-tools
test-tools: ## installs the Debian packages that the tests need, when they are missing
	@missing=""; \
	command -v redis-server >/dev/null || missing="$$missing redis-server"; \
	command -v swaks >/dev/null || missing="$$missing swaks"; \
	perl -MNet::SSLeay -e1 2>/dev/null || missing="$$missing libnet-ssleay-perl"; \
	[ -x /usr/sbin/smtp-source ] || missing="$$missing postfix"; \
	if [ -n "$$missing" ]; then \
	  echo "Installing$$missing"; \
	  SUDO=$$([ "$$(id -u)" = 0 ] || echo sudo); \
	  $$SUDO apt-get update -qq && \
	  $$SUDO env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

.PHONY: fuzz
fuzz: ## runs each fuzz target for FUZZ_SECONDS (60)
	crates/smtp/fuzz/run.sh $(FUZZ_SECONDS)

.PHONY: bench
bench: test-tools bench-build ## measures end to end beside Postfix and the wire (about 20 minutes; as root), then each hot step
	./target/release/tdc-bench compare --write docs/performance.md
	$(CARGO) bench --locked -p tdc-benches --benches

.PHONY: bench-growth
bench-growth: test-tools bench-build ## measures what work costs as it grows: size, connections, policies, workers, intakes, backlog
	./target/release/tdc-bench growth --write docs/performance.md

.PHONY: profile
profile: test-tools bench-build ## where the time of each role goes under load; needs perf (Debian: linux-perf)
	./target/release/tdc-bench profile

.PHONY: start-times
start-times: test-tools release ## measures how long each role takes to start
	benches/start-times $(RELEASE)

.PHONY: bench-build
bench-build:
	$(CARGO) build --locked --release -p tdc -p tdc-benches

.PHONY: fmt
fmt: ## formats the code
	$(CARGO) fmt --all

.PHONY: lint
lint: ## formatting and clippy, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

.PHONY: generate
generate: build ## writes the generated files: the chart's CRDs, docs/resources.md
	./target/debug/tdc crds > charts/threat-defense-connector/files/crds.yaml
	./target/debug/tdc crds --reference > docs/resources.md

.PHONY: drift
drift: build ## fails when a generated file is not what the code generates
	./target/debug/tdc crds | diff -u charts/threat-defense-connector/files/crds.yaml -
	./target/debug/tdc crds --reference | diff -u docs/resources.md -

.PHONY: deny
deny: ## licences, sources and duplicate versions of the dependencies, where cargo-deny can be had
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked --quiet cargo-deny || \
	  { echo "cargo-deny cannot be installed here; skipped"; exit 0; }; \
	if command -v cargo-deny >/dev/null; then $(CARGO) deny --locked check bans licenses sources; fi

IMAGE ?= tdc:dev
RELEASE := target/$(TARGET)/release/tdc
AUTHORITIES := /etc/ssl/certs/ca-certificates.crt

.PHONY: image
image: ## builds the image IMAGE (tdc:dev) with docker, podman or buildah; PREBUILT=1 takes the program of `make release`
	@set -e; tool=""; \
	for candidate in docker podman buildah; do \
	  if [ -z "$$tool" ] && command -v $$candidate >/dev/null && $$candidate info >/dev/null 2>&1; then tool=$$candidate; fi; \
	done; \
	[ -n "$$tool" ] || { echo "make image needs docker (running), podman or buildah; make image-load needs none of them"; exit 1; }; \
	binary=compiled; \
	if [ -n "$(PREBUILT)" ]; then \
	  $(MAKE) --no-print-directory release; mkdir -p target/image; cp $(RELEASE) $(AUTHORITIES) target/image/; binary=prebuilt; \
	fi; \
	echo "Building $(IMAGE) with $$tool"; \
	$$tool build --build-arg BINARY=$$binary -t $(IMAGE) .

.PHONY: image-load
image-load: ## loads the image into the test cluster (after `make release`), or with KIND=NAME into a kind cluster
	@set -e; \
	if [ -n "$(KIND)" ]; then \
	  kind load docker-image --name $(KIND) $(IMAGE); \
	else \
	  [ -x $(RELEASE) ] || $(MAKE) --no-print-directory release; \
	  $(CLUSTER) load $(IMAGE) --entrypoint /tdc $(RELEASE):/tdc $(AUTHORITIES):$(AUTHORITIES); \
	fi

# Prometheus's own checker of expressions and alerts, out of Debian's package; the server is not installed.
target/tools/promtool:
	@mkdir -p $(@D) && cd $(@D) && { apt-get download -qq prometheus 2>/dev/null || \
	  { $$([ "$$(id -u)" = 0 ] || echo sudo) apt-get update -qq && apt-get download -qq prometheus; }; } && \
	dpkg-deb --fsys-tarfile prometheus_*.deb | tar -xf - --strip-components=3 ./usr/bin/promtool && rm prometheus_*.deb

# The tests of chart and cluster are built as `make test` builds: with another selection of packages, dependencies
# have other features and would all be built a second time.
.PHONY: chart-lint
chart-lint: build target/tools/promtool ## lints the chart, tests its templates and alerts; needs no cluster
	@set -e; $(CLUSTER) bin; eval "$$($(CLUSTER) env)"; export PATH="$${HELM_DIR:+$$HELM_DIR:}$$PWD/target/tools:$$PATH"; \
	for values in deploy/demo/k8s/values.yaml charts/threat-defense-connector/ci/*-values.yaml; do \
	  echo "helm lint -f $$values"; helm lint --quiet --strict charts/threat-defense-connector -f $$values; \
	done; \
	$(CARGO) test --locked -q --workspace --test chart

# The chart's default image, for the commands of the README.
DEFAULT_IMAGE := ghcr.io/threat-defense-connector/tdc:$(shell sed -n 's/^appVersion: *//p' charts/threat-defense-connector/Chart.yaml)

.PHONY: test-cluster
test-cluster: release test-tools ## installs the chart on a real cluster of this machine and sends mail through it; needs root
	@set -e; \
	if command -v ss >/dev/null && $(CLUSTER) status | grep -q '^etcd  *down' && \
	    ss -Hltn '( sport = :23790 or sport = :6443 )' | grep -q .; then \
	  echo "something else listens on port 23790 or 6443, and the cluster would take it for its own"; exit 1; \
	fi; \
	$(CARGO) test --locked -q --workspace --test cluster-tier --no-run; \
	trap '$(CLUSTER) down --purge' EXIT; trap 'exit 130' INT TERM; \
	$(CLUSTER) up; $(CLUSTER) addons; \
	for image in $(IMAGE) $(DEFAULT_IMAGE); do $(MAKE) --no-print-directory image-load IMAGE=$$image; done; \
	eval "$$($(CLUSTER) env)"; export PATH="$${HELM_DIR:+$$HELM_DIR:}$$PATH"; \
	$(CARGO) test --locked -q --workspace --test cluster-tier -- $(CHECK)

.PHONY: kind-demo
kind-demo: ## the demonstration in a kind cluster; needs docker, kind, kubectl, helm and the network
	deploy/demo/k8s/kind
