//! What the service manager is told.

use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::*;

#[test]
fn the_service_manager_is_told_what_becomes_of_a_hub() {
    let folder = Folder::new("notify");
    let fifo = folder.file("revoked", "");
    // By a path, too long for a socket in some folders that tests are built in.
    let path = std::env::temp_dir().join(format!("slime-notify-{}", std::process::id()));
    let manager = Manager::at(&SocketAddr::from_pathname(&path).unwrap());
    let named = format!("NOTIFY_SOCKET={}", path.display());
    let hub = Hub::start(&["--revoked", &fifo], &["SLIME_SECRET=s", &named, "WATCHDOG_USEC=300000"]);
    manager.wait("READY=1");
    for _ in 0..3 {
        // Twice in each period at least: the margin is for the machine.
        assert!(manager.wait("WATCHDOG=1") < Duration::from_secs(5));
    }
    fs::remove_file(&path).unwrap();
    hub.wait_line("the service manager at NOTIFY_SOCKET cannot be told anything: No such file");
    drop((hub, manager));

    let (manager, named) = Manager::new("hub");
    let hub = Hub::start(&["--revoked", &fifo], &["SLIME_SECRET=s", &named, "WATCHDOG_USEC=300000"]);
    manager.wait("READY=1");
    manager.wait("WATCHDOG=1");
    // A loop that hangs is silent: this one waits for somebody who writes into the pipe.
    fs::remove_file(&fifo).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
        .unwrap();
    hub.signal(Signal::HUP);
    manager.wait("RELOADING=1\nMONOTONIC_USEC=");
    assert_eq!(manager.hear(Duration::from_secs(1)), None);
    fs::write(&fifo, "somebody\n").unwrap();
    assert_eq!(manager.hear(DEADLINE).as_deref(), Some("READY=1"));
    manager.wait("WATCHDOG=1");
    assert_eq!(hub.stop(), 0);
    manager.wait("STOPPING=1");
}

#[test]
fn the_service_manager_is_told_what_becomes_of_an_agent() {
    let hub = Hub::start(&[], &[&format!("SLIME_SECRET={SECRET}")]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let (manager, named) = Manager::new("agent");
    let line = format!("agent --hub {} --upstream {}", hub.address, silent.local_addr().unwrap());
    let token = format!("SLIME_TOKEN={}", register(SECRET, &[]));
    // Its own number is what nobody knows but a process itself.
    let mut command = Command::new("sh");
    command.args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\"", SLIME]).args(words(&line));
    let agent = Process::spawn(clean(&mut command, &[&token, &named, "WATCHDOG_USEC=300000"]));
    manager.wait("READY=1");
    agent.wait_line("joined");
    manager.wait("WATCHDOG=1");
    agent.signal(Signal::HUP);
    manager.wait("RELOADING=1");
    manager.wait("READY=1");
    // Also while it drains.
    let _application = send(&hub.address, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    let _job = loop {
        let (mut stream, _) = silent.accept().unwrap();
        if stream.read(&mut [0; 1024]).unwrap() > 0 {
            break stream;
        }
    };
    agent.signal(Signal::TERM);
    manager.wait("STOPPING=1");
    manager.wait("WATCHDOG=1");
    manager.wait("WATCHDOG=1");
}

#[test]
fn a_service_manager_that_cannot_be_told_stops_nothing() {
    // The watchdog is another process's.
    let (manager, named) = Manager::new("other");
    let hub = Hub::start(&[], &["SLIME_SECRET=s", &named, "WATCHDOG_USEC=1000", "WATCHDOG_PID=1"]);
    manager.wait("READY=1");
    assert!(get(&hub.address, "Slime-Block: 0\r\n").starts_with("HTTP/1.1 503"));
    assert_eq!(hub.stop(), 0);
    assert_eq!(manager.hear(DEADLINE).as_deref(), Some("STOPPING=1"));

    for (socket, micros, says) in [
        (named.as_str(), "soon", "WATCHDOG_USEC is not a whole number above zero"),
        (
            "NOTIFY_SOCKET=relative",
            "1",
            "NOTIFY_SOCKET cannot be used, so the service manager is told nothing: ",
        ),
        (
            "NOTIFY_SOCKET=/nonexistent/socket",
            "1",
            "the service manager at NOTIFY_SOCKET cannot be told anything: No such",
        ),
    ] {
        let hub = Hub::start(&[], &["SLIME_SECRET=s", socket, &format!("WATCHDOG_USEC={micros}")]);
        hub.wait_line(says);
        assert!(get(&hub.address, "Slime-Block: 0\r\n").starts_with("HTTP/1.1 503"));
        assert_eq!(hub.stop(), 0);
        assert_eq!(hub.log().matches("NOTIFY_SOCKET").count(), usize::from(micros == "1"), "{}", hub.log());
    }
}
