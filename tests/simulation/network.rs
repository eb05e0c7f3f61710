//! The simulated network by itself: it behaves as Linux does.

use std::cell::RefCell;
use std::io::{ErrorKind, IoSlice};
use std::rc::Rc;

use slime::net::{Event, Net};

use crate::calls::{Listener, SimNet, Socket};
use crate::world::{SECOND, Weather, World};

const LISTENER: u32 = 9;

/// Two processes; the first has dialled the second, which has accepted. All events so far are told.
struct Pair {
    world: Rc<RefCell<World>>,
    here: SimNet,
    there: SimNet,
    listener: Listener,
    dialled: Socket,
    accepted: Socket,
}

fn pair() -> Pair {
    let world = Rc::new(RefCell::new(World::new(1, Weather::default())));
    let (mut here, mut there) = (SimNet::new(&world, "here"), SimNet::new(&world, "there"));
    let address = there.address(1);
    let mut listener = there.listen(address, LISTENER);
    let mut dialled = here.connect(address).unwrap();
    here.register(&mut dialled, 1).unwrap();
    assert!(!here.connected(&mut dialled).unwrap());
    assert_eq!(events(&mut here), [], "no event before it is connected");
    wait(&world);
    assert!(here.connected(&mut dialled).unwrap());
    assert_eq!(events(&mut here), [(1, false, true, false)]);
    assert_eq!(events(&mut there), [(LISTENER, true, false, false)]);
    let (mut accepted, _) = there.accept(&mut listener).unwrap();
    assert_eq!(there.accept(&mut listener).err().unwrap().kind(), ErrorKind::WouldBlock);
    there.register(&mut accepted, 2).unwrap();
    assert_eq!(events(&mut there), [(2, false, true, false)], "what stands is told at registration");
    Pair { world, here, there, listener, dialled, accepted }
}

/// Lets everything arrive that is on its way.
fn wait(world: &Rc<RefCell<World>>) {
    let now = world.borrow().clock;
    world.borrow_mut().advance_to(now + SECOND);
}

/// Token, readable, writable, hangup.
fn events(net: &mut SimNet) -> Vec<(u32, bool, bool, bool)> {
    let mut events = Vec::new();
    net.poll(&mut events, None).unwrap();
    let ready = |event| match event {
        Event::Ready { token, readable, writable, hangup } => Some((token, readable, writable, hangup)),
        Event::Resolved { .. } | Event::Vanished { .. } | Event::Terminate | Event::Reload => None,
    };
    events.into_iter().filter_map(ready).collect()
}

fn write(net: &mut SimNet, socket: &mut Socket, bytes: &[u8]) -> Result<usize, ErrorKind> {
    net.write(socket, &[IoSlice::new(bytes)]).map_err(|error| error.kind())
}

fn read(net: &mut SimNet, socket: &mut Socket) -> Result<Vec<u8>, ErrorKind> {
    let mut buffer = [0; 1000];
    net.read(socket, &mut buffer).map(|n| buffer[..n].to_vec()).map_err(|error| error.kind())
}

#[test]
fn data_and_fin_make_one_edge() {
    let Pair { world, mut here, mut there, mut dialled, mut accepted, .. } = pair();
    write(&mut here, &mut dialled, b"data").unwrap();
    here.shutdown(&mut dialled).unwrap();
    wait(&world);
    assert_eq!(events(&mut there), [(2, true, true, true)]);
    assert_eq!(events(&mut there), []);
    assert_eq!(read(&mut there, &mut accepted).unwrap(), b"data");
    assert_eq!(events(&mut there), [], "no second edge for the end");
    assert_eq!(read(&mut there, &mut accepted).unwrap(), b"");
    assert_eq!(write(&mut here, &mut dialled, b"x"), Err(ErrorKind::BrokenPipe));
}

#[test]
fn new_data_makes_a_new_edge() {
    let Pair { world, mut here, mut there, mut dialled, mut accepted, .. } = pair();
    for _ in 0..3 {
        write(&mut here, &mut dialled, b"x").unwrap();
        wait(&world);
        assert_eq!(events(&mut there), [(2, true, true, false)]);
    }
    assert_eq!(read(&mut there, &mut accepted).unwrap(), b"xxx");
    assert_eq!(read(&mut there, &mut accepted), Err(ErrorKind::WouldBlock));
}

#[test]
fn room_is_an_edge_only_after_it_was_missed() {
    let Pair { world, mut here, mut there, mut dialled, mut accepted, .. } = pair();
    let bytes = vec![0; 300_000];
    let n = write(&mut here, &mut dialled, &bytes).unwrap();
    assert!(n < bytes.len());
    assert_eq!(write(&mut here, &mut dialled, b"x"), Err(ErrorKind::WouldBlock));
    wait(&world);
    assert_eq!(events(&mut here), []);
    let mut left = n;
    while left > 0 {
        left -= read(&mut there, &mut accepted).unwrap().len();
    }
    wait(&world);
    assert_eq!(events(&mut here), [(1, false, true, false)]);
    assert_eq!(write(&mut here, &mut dialled, &bytes[..n]).unwrap(), n);
    wait(&world);
    while read(&mut there, &mut accepted).is_ok() {}
    wait(&world);
    assert_eq!(events(&mut here), [], "all of it was taken");
}

#[test]
fn closing_with_unread_input_resets() {
    let Pair { world, mut here, mut there, mut dialled, mut accepted, .. } = pair();
    write(&mut here, &mut dialled, b"never read").unwrap();
    write(&mut there, &mut accepted, b"before").unwrap();
    wait(&world);
    drop(accepted);
    wait(&world);
    assert_eq!(events(&mut here), [(1, true, true, true)]);
    assert_eq!(read(&mut here, &mut dialled).unwrap(), b"before", "what had arrived stays readable");
    assert_eq!(read(&mut here, &mut dialled), Err(ErrorKind::ConnectionReset));
    assert_eq!(read(&mut here, &mut dialled).unwrap(), b"", "the error is told once");
    assert_eq!(here.shutdown(&mut dialled).unwrap_err().kind(), ErrorKind::NotConnected);
}

#[test]
fn a_write_takes_the_error_away() {
    let Pair { world, mut here, there: mut other, mut dialled, accepted, .. } = pair();
    other.abort(accepted);
    wait(&world);
    assert_eq!(write(&mut here, &mut dialled, b"x"), Err(ErrorKind::ConnectionReset));
    assert_eq!(write(&mut here, &mut dialled, b"x"), Err(ErrorKind::BrokenPipe));
    assert_eq!(read(&mut here, &mut dialled).unwrap(), b"", "it looks like a clean end");
}

#[test]
fn data_for_a_closed_socket_is_answered_by_a_reset() {
    let Pair { world, mut here, mut dialled, accepted, .. } = pair();
    drop(accepted);
    wait(&world);
    assert_eq!(read(&mut here, &mut dialled).unwrap(), b"");
    assert_eq!(write(&mut here, &mut dialled, b"x").unwrap(), 1);
    wait(&world);
    assert_eq!(write(&mut here, &mut dialled, b"x"), Err(ErrorKind::BrokenPipe));
}

#[test]
fn who_does_not_listen_refuses_and_who_does_not_exist_is_silent() {
    let Pair { world, mut here, there, listener, .. } = pair();
    drop(listener);
    let nobody = std::net::SocketAddr::new([10, 9, 9, 9].into(), 1);
    for (address, after, error) in
        [(there.address(1), 1, ErrorKind::ConnectionRefused), (nobody, 200, ErrorKind::TimedOut)]
    {
        let mut socket = here.connect(address).unwrap();
        here.register(&mut socket, 3).unwrap();
        let now = world.borrow().clock;
        world.borrow_mut().advance_to(now + after * SECOND);
        assert_eq!(events(&mut here), [(3, true, true, true)]);
        assert_eq!(here.connected(&mut socket).unwrap_err().kind(), error);
        assert!(!here.connected(&mut socket).unwrap(), "the error is told once");
    }
}

#[test]
fn a_silent_connection_is_given_up_by_the_kernel() {
    let Pair { world, mut here, mut dialled, accepted, .. } = pair();
    world.borrow_mut().silence(dialled.end);
    drop(accepted);
    for (after, events_then) in [(59, 0), (2, 1)] {
        let now = world.borrow().clock;
        world.borrow_mut().advance_to(now + after * SECOND);
        assert_eq!(events(&mut here).len(), events_then);
    }
    assert_eq!(read(&mut here, &mut dialled), Err(ErrorKind::TimedOut));
}

#[test]
fn a_fin_that_has_no_room_is_given_up_by_the_kernel_once_its_process_has_closed() {
    for says_end_before in [false, true] {
        let Pair { world, mut here, mut there, mut dialled, mut accepted, .. } = pair();
        {
            let end = &mut world.borrow_mut().ends[accepted.end];
            (end.capacity, end.window) = (10_000, Some(2000));
        }
        assert_eq!(write(&mut here, &mut dialled, &[7; 5000]), Ok(5000));
        let later = |seconds| {
            let now = world.borrow().clock;
            world.borrow_mut().advance_to(now + seconds * SECOND);
        };
        if says_end_before {
            here.shutdown(&mut dialled).unwrap();
            later(1000);
        }
        later(1);
        assert_eq!(read(&mut there, &mut accepted).unwrap().len(), 1000);
        drop(dialled);
        later(300);
        assert_eq!(events(&mut there), [(2, true, true, false)], "no end is to be seen");
        // Room begins its time anew.
        assert_eq!(read(&mut there, &mut accepted).unwrap().len(), 1000);
        later(300);
        assert_eq!(events(&mut there), []);
        later(71);
        assert_eq!(events(&mut there), [(2, true, true, true)]);
        // What had room had arrived.
        for _ in 0..2 {
            assert_eq!(read(&mut there, &mut accepted).unwrap().len(), 1000);
        }
        assert_eq!(read(&mut there, &mut accepted), Err(ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_failed_accept_leaves_the_connection_and_gives_no_edge() {
    let Pair { world, mut here, mut there, mut listener, .. } = pair();
    let address = there.address(1);
    let _socket = here.connect(address).unwrap();
    wait(&world);
    assert_eq!(events(&mut there), [(LISTENER, true, false, false)]);
    world.borrow_mut().weather.exhausted = 1000;
    assert!(there.accept(&mut listener).is_err());
    wait(&world);
    assert_eq!(events(&mut there), []);
    world.borrow_mut().weather.exhausted = 0;
    assert!(there.accept(&mut listener).is_ok());
}

#[test]
fn a_new_token_is_told_what_stands() {
    let Pair { world, mut here, mut there, mut dialled, mut accepted, .. } = pair();
    write(&mut here, &mut dialled, b"x").unwrap();
    wait(&world);
    assert_eq!(events(&mut there).len(), 1);
    there.reregister(&mut accepted, 5).unwrap();
    assert_eq!(events(&mut there), [(5, true, true, false)]);
}
