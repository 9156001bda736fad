//! ARP: whatever parses is answered with a packet that parses again, as the reply to that question.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tortie::arp;
use tortie::wire::Mac;

fuzz_target!(|data: &[u8]| {
    let Ok(asked) = arp::parse(data) else { return };
    let own = asked.sender;
    let verdict = arp::judge(&asked, |a| a == own);
    let mut frame = data.to_vec();
    arp::answer(&mut frame, &asked, Mac::GATEWAY);
    let reply = arp::parse(&frame).expect("our own answer parses");
    assert_eq!((reply.op, reply.sender, reply.target, reply.sender_mac), (2, asked.target, asked.sender, Mac::GATEWAY));
    if asked.op == 2 || asked.sender == 0 || asked.sender == asked.target {
        assert_eq!(verdict, Ok(arp::Verdict::Ignore));
    }
});
