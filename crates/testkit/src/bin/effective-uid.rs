//! Tells its effective user: in a test image, with the set-user-ID bit, it shows whether a container
//! may gain privileges.
#![allow(clippy::print_stdout, reason = "it has nothing else to do")]

fn main() {
    println!("Effective uid: {}", rustix::process::geteuid().as_raw());
}
