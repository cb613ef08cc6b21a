# make test: build everything and run every test.   make demo: a real model at 3 and 2 bits.
# On a bare Debian 12 both install what is missing first (as root or through sudo).
JOBS ?= $(shell nproc)

.PHONY: release test demo clean
release:
	sh tools/install_dependencies.sh build
	cmake --preset release
	cmake --build --preset release --parallel $(JOBS)

test:
	sh tools/install_dependencies.sh build
	cmake --preset dev
	cmake --build --preset dev --parallel $(JOBS)
	ctest --test-dir build/dev --output-on-failure --parallel $(JOBS)

demo: release
	sh tools/install_dependencies.sh build demo
	sh tools/demo.sh build/release/d2quant

clean:
	rm -rf build
