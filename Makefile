# Everything runs in .venv, which the first target that needs it makes; the second time that costs nothing.
#   make demo    train, compile, verify and time two networks (about five minutes on a fresh machine)
#   make test    linter, type checker and the tests
#   make slow    the tests that take long: every variant of every example
#   make zoo     holds every network of the zoo to its checks beside its reference, and writes docs/zoo.md
#   make bench   measures networks beside their peers and writes docs/performance*.md (three hours, half of them tuning;
#                nothing else may run on the machine meanwhile)
#   make docs    writes docs/errors.md and docs/std.md from their sources
#   make arm-test  networks for ARM cores, RISC-V and a microcontroller, run under emulators, and their loops counted
#                  (installs cross compilers, qemu and LLVM's tools)
#   make web-test  networks for WebAssembly, run by node and in a browser, and the page of a profile (installs clang, lld,
#                Chromium)
#   make cuda-test  networks for NVIDIA GPUs, run on one of this machine; compiled in any case (GPU=sm_90)
#   make fuzz    grows random networks for MINUTES minutes, holds every pass to its relations, and compiles some
#   make nightly  ten thousand random examples of every property of the language: printing, formatting, mutated specs
#   make mutate  changes the passes' source in one place at a time and says which changes no test notices
#   make clean   removes .venv and what tools leave behind

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
JOBS ?= 2
MINUTES ?= 20
GPU ?= sm_90
MODULES ?=
SAMPLE ?= 12
CUDA_NETWORKS := examples/digits.specc zoo:repvit/m1_1
CUDA_PRECISIONS := float32 fp16 bf16

.DEFAULT_GOAL := test
.PHONY: demo bench test arm-test web-test cuda-test slow zoo lint types unit docs fuzz nightly mutate clean

# The compiler that links artifacts, and Python's venv: installed where this machine lacks them and lets us.
$(READY): pyproject.toml Makefile
	@command -v g++ >/dev/null && $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
	  || { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -qy --no-install-recommends g++ python3-venv; } \
	  || { echo 'make: needs g++ and python3-venv: ask for them to be installed' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -qq --disable-pip-version-check --editable '.[dev]'
	$(BIN)/pip install -qq --disable-pip-version-check --no-deps torchvision==0.28.0 torchaudio==2.11.0 timm==1.0.31
	@touch $@

# $(call with,PROGRAMS,PACKAGES): installs the packages where one of the programs is missing.
with = (for tool in $(1); do command -v $$tool >/dev/null || exit 1; done) \
	|| { [ "$$(id -u)" = 0 ] && apt-get update -q && apt-get install -qy --no-install-recommends $(2); } \
	|| { echo 'make: needs $(2): ask for them to be installed' >&2; exit 1; }

demo: $(READY)
	@$(BIN)/python examples/demo.py

test: lint types unit

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m 'not slow and not cross'

slow: $(READY)
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m slow

zoo: $(READY)
	$(BIN)/python tests/zoo/report.py --jobs $(JOBS)

arm-test: $(READY)
	@$(call with,aarch64-linux-gnu-gcc arm-linux-gnueabihf-gcc riscv64-linux-gnu-gcc arm-none-eabi-gcc \
	  qemu-aarch64 qemu-arm qemu-riscv64 qemu-system-arm llvm-mca-19,gcc-aarch64-linux-gnu libc6-dev-arm64-cross \
	  gcc-arm-linux-gnueabihf libc6-dev-armhf-cross gcc-riscv64-linux-gnu libc6-dev-riscv64-cross \
	  gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-user qemu-system-arm llvm-19)
	$(BIN)/pytest -m cross tests/deploy/test_emulated.py tests/deploy/test_microcontroller.py
	$(BIN)/pytest tests/test_static_profile.py

web-test: $(READY)
	@$(call with,clang wasm-ld node chromium,clang lld wasi-libc libclang-rt-dev-wasm32 nodejs chromium)
	$(BIN)/pytest -m cross tests/deploy/test_web.py tests/deploy/test_page.py tests/waterline

# The second line needs the artifacts, numpy and the folder specc/ alone: it can be run by hand where a GPU is.
cuda-test: $(READY)
	@mkdir -p build/cuda
	@for net in $(CUDA_NETWORKS); do for precision in $(CUDA_PRECISIONS); do \
	  $(BIN)/specc compile $$net --target cuda:$(GPU) --precision $$precision \
	    -o build/cuda/$$(basename $$net .specc)-$$precision.artifact || exit 1; done; done
	$(BIN)/python tests/deploy/on_gpu.py build/cuda/*.artifact || [ $$? = 2 ]

bench: $(READY)
	$(BIN)/python docs/measure.py

docs: $(READY)
	$(BIN)/python docs/generate.py

fuzz: $(READY)
	$(BIN)/python tests/fuzz.py --minutes $(MINUTES)

nightly: $(READY)
	HYPOTHESIS_PROFILE=nightly $(BIN)/pytest -n $(JOBS) --dist worksteal \
	  tests/grammar/test_printer.py tests/grammar/test_format.py tests/grammar/test_mutations.py

# MODULES are those of passes/ (pieces views ...; all of them where none is named), SAMPLE is how many changes of each
# are tried, 0 for all: `make mutate MODULES=pieces SAMPLE=0`.
mutate: $(READY)
	$(BIN)/pip install -qq --disable-pip-version-check --editable '.[mutate]'
	OMP_NUM_THREADS=1 nice -n 15 $(BIN)/python tests/mutate.py --jobs $(JOBS) --sample $(SAMPLE) \
	  $(if $(MODULES),--modules $(MODULES))

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
