#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::run("entry_path", bytes));
