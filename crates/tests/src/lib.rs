//! Tests of the whole: a module per capability in one test binary (`tests/it`), against a real
//! daemon, registry, runtime and kernel.
