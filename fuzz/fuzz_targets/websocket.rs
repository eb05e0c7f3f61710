#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| slime::proto::fuzzing::websocket(data));
