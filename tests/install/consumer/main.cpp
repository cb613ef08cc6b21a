#include <d2quant/version.h>

#include <cstdio>

int main() { return std::puts(d2q::kVersion) < 0; }
