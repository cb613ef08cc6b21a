# make test: build everything and run every test.   make demo: a real model at 3 and 2 bits.
# make sanitize: every test with address, leak and undefined-behaviour checks.
# On a bare Debian 12 they install what is missing first (as root or through sudo).
JOBS ?= $(shell nproc)

.PHONY: release test sanitize demo clean
release:
	sh tools/install_dependencies.sh build
	cmake --preset release
	cmake --build --preset release --parallel $(JOBS)

test:
	sh tools/install_dependencies.sh build
	cmake --preset dev
	cmake --build --preset dev --parallel $(JOBS)
	ctest --test-dir build/dev --output-on-failure --parallel $(JOBS)

sanitize:
	sh tools/install_dependencies.sh build
	cmake --preset asan-ubsan
	cmake --build --preset asan-ubsan --parallel $(JOBS)
	ctest --preset asan-ubsan --parallel $(JOBS)

demo: release
	sh tools/install_dependencies.sh build demo
	sh tools/demo.sh build/release/d2quant

clean:
	rm -rf build
