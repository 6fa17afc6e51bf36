//! Compiles all that was generated, in a crate that denies every warning, and calls some of it.

#![deny(warnings, missing_docs, missing_debug_implementations, unreachable_pub, clippy::all)]
#![deny(rust_2018_idioms, unused_qualifications)]

#[allow(missing_docs, missing_debug_implementations, unreachable_pub, dead_code)]
mod mock;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use mock::{
    Channel, Idempotency, Items, MethodKind, Request, Response, Service, Status, Streaming,
};

macro_rules! cases {
    ($($case:ident)*) => {$(
        /// As committed by the golden test.
        #[allow(clippy::module_inception)]
        pub mod $case {
            include!(concat!("golden/", stringify!($case), "/mod.rs"));
        }
    )*};
}

cases!(greet names packages externs client_only server_only messages_only options well_known settings);

fn run<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("nothing here waits"),
    }
}

/// What `skip_debug` leaves to the user.
impl std::fmt::Debug for settings::settings::Leaf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a leaf")
    }
}

mod greeting {
    use super::*;
    use greet::greet::v1::greeter_client::GreeterClient;
    use greet::greet::v1::greeter_server::{Greeter, GreeterServer, SERVICE_NAME};
    use greet::greet::v1::{HelloReply, HelloRequest, greeter_descriptor, nothing_server};

    /// Neither `Clone` nor `Debug`: the server must not ask for them.
    struct English;

    fn reply(text: impl Into<String>) -> HelloReply {
        HelloReply { text: text.into(), ..HelloReply::default() }
    }

    fn hello(name: &str) -> HelloRequest {
        HelloRequest { name: name.to_owned(), times: None }
    }

    type Replies = Items<Result<HelloReply, Status>>;

    impl Greeter for English {
        async fn say_hello(
            &self,
            request: Request<HelloRequest>,
        ) -> Result<Response<HelloReply>, Status> {
            Ok(Response(reply(format!("hello {}", request.0.name))))
        }

        type SayHelloForeverStream = Replies;

        async fn say_hello_forever(
            &self,
            request: Request<HelloRequest>,
        ) -> Result<Response<Replies>, Status> {
            let times = request.0.times.ok_or_else(|| Status("times?".to_owned()))?;
            Ok(Response(Items((0..times).map(|time| Ok(reply(time.to_string()))).collect())))
        }

        async fn greet_all(
            &self,
            mut request: Request<Streaming<HelloRequest>>,
        ) -> Result<Response<HelloReply>, Status> {
            let mut names = Vec::new();
            while let Some(request) = request.0.message().await? {
                names.push(request.name);
            }
            Ok(Response(reply(names.join("+"))))
        }

        type ChatStream = Replies;

        async fn chat(
            &self,
            mut request: Request<Streaming<HelloRequest>>,
        ) -> Result<Response<Replies>, Status> {
            let mut replies = Items(Default::default());
            while let Some(request) = request.0.message().await? {
                replies.0.push_back(Ok(reply(request.name)));
            }
            Ok(Response(replies))
        }

        async fn ping(&self, _: Request<()>) -> Result<Response<()>, Status> {
            Ok(Response(()))
        }

        type SpellStream = Items<Result<prost_types::Timestamp, Status>>;

        async fn spell(
            &self,
            request: Request<String>,
        ) -> Result<Response<Self::SpellStream>, Status> {
            let stamp = |c| prost_types::Timestamp { seconds: i64::from(u32::from(c)), nanos: 0 };
            Ok(Response(Items(request.0.chars().map(|c| Ok(stamp(c))).collect())))
        }

        async fn wave(&self, _: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
            Err(Status("no".to_owned()))
        }
    }

    fn client() -> GreeterClient {
        GreeterClient::new(Channel(Arc::new(GreeterServer::new(English))))
    }

    fn all<T: prost::Message + Default>(response: Response<Streaming<T>>) -> Vec<T> {
        let mut stream = response.0;
        run(async move {
            let mut messages = Vec::new();
            while let Some(message) = stream.message().await.unwrap() {
                messages.push(message);
            }
            messages
        })
    }

    #[test]
    fn every_kind_of_method_reaches_its_handler() {
        let client = client();
        assert_eq!(run(client.say_hello(hello("you"))).unwrap().0.text, "hello you");
        assert_eq!(run(client.say_hello(Request(hello("me")))).unwrap().0.text, "hello me");
        let request = HelloRequest { times: Some(3), ..HelloRequest::default() };
        let replies = all(run(client.say_hello_forever(request)).unwrap());
        assert_eq!(replies, [reply("0"), reply("1"), reply("2")]);
        assert_eq!(run(client.greet_all(vec![hello("a"), hello("b")])).unwrap().0.text, "a+b");
        assert_eq!(
            all(run(client.chat(vec![hello("x"), hello("y")])).unwrap()),
            [reply("x"), reply("y")]
        );
        run(client.ping(())).unwrap();
        assert_eq!(all(run(client.spell("ab".to_owned())).unwrap()).len(), 2);
    }

    #[test]
    fn errors_come_back() {
        let error = run(client().say_hello_forever(hello("you"))).unwrap_err();
        assert_eq!(error, Status("times?".to_owned()));
    }

    #[test]
    fn futures_of_clients_can_be_sent_to_other_threads() {
        fn assert_send<T: Send>(value: T) -> T {
            value
        }
        let client = client();
        run(assert_send(client.say_hello(hello("you")))).unwrap();
        run(assert_send(client.chat(vec![hello("you")]))).unwrap();
    }

    #[test]
    fn limits_of_the_server_reach_its_calls() {
        let server = GreeterServer::from_arc(Arc::new(English)).max_decoding_message_size(4);
        let client = GreeterClient::new(Channel(Arc::new(server.clone())));
        assert_eq!(run(client.say_hello(hello("everybody"))).unwrap_err().0, "too long");
        assert!(run(client.say_hello(hello("x"))).is_ok());
        assert_eq!(format!("{server:?}"), "GreeterServer { .. }");
    }

    #[test]
    fn limits_of_the_client_are_kept() {
        let client = client().max_decoding_message_size(1).max_encoding_message_size(2);
        assert!(format!("{client:?}").contains("decoding: Some(1), encoding: Some(2)"));
    }

    #[test]
    fn the_descriptor_tells_kinds_and_idempotency() {
        assert_eq!(SERVICE_NAME, "greet.v1.Greeter");
        let service = GreeterServer::new(English).descriptor();
        assert!(std::ptr::eq(service, &greeter_descriptor::SERVICE));
        assert_eq!(service.name, SERVICE_NAME);
        let found: Vec<_> = service
            .methods
            .iter()
            .map(|method| (method.path, method.kind, method.idempotency))
            .collect();
        assert_eq!(
            found[..4],
            [
                ("/greet.v1.Greeter/SayHello", MethodKind::Unary, Idempotency::NoSideEffects),
                (
                    "/greet.v1.Greeter/SayHelloForever",
                    MethodKind::ServerStreaming,
                    Idempotency::Unknown
                ),
                (
                    "/greet.v1.Greeter/GreetAll",
                    MethodKind::ClientStreaming,
                    Idempotency::Idempotent
                ),
                ("/greet.v1.Greeter/Chat", MethodKind::BidiStreaming, Idempotency::Unknown),
            ]
        );
    }

    #[test]
    fn a_service_without_methods_answers_unimplemented() {
        struct Nothing;
        impl nothing_server::Nothing for Nothing {}
        let channel = Channel(Arc::new(nothing_server::NothingServer::new(Nothing)));
        // A client of another service: none of its methods is there.
        let error = run(GreeterClient::new(channel).ping(())).unwrap_err();
        assert_eq!(error.0, "no such method");
    }
}

#[test]
fn names_changed_for_rust_stay_as_they_are_on_the_wire() {
    use names::r#type::r#move::{greeter2_descriptor, greeter3_descriptor};
    let method = |name: &str| {
        let mut methods = greeter2_descriptor::METHODS.iter();
        methods.find(|method| method.name == name).unwrap().path
    };
    for name in ["Get", "get", "GET", "new", "clone", "type", "Self", "self", "_"] {
        assert_eq!(method(name), format!("/type.move.Greeter/{name}"));
    }
    assert_eq!(greeter3_descriptor::SERVICE.name, "type.move.greeter");
}

#[test]
fn defaults_of_proto2_are_kept() {
    let money = packages::shop::common::Money::default();
    assert_eq!((money.currency.as_str(), money.units()), ("EUR", -3));
    assert_eq!(money.proof(), b"\x01x");
    assert_eq!(money.rounding(), packages::shop::common::Rounding::Up);
}

#[test]
fn stubs_with_default_methods_answer_unimplemented() {
    use settings::settings::{Blob, store_client::StoreClient, store_server};
    struct Empty;
    impl store_server::Store for Empty {
        type ListStream = Items<Result<Blob, Status>>;
        async fn put(self: Arc<Self>, request: Request<Blob>) -> Result<Response<Blob>, Status> {
            Ok(Response(request.0))
        }
    }
    let client = StoreClient::new(Channel(Arc::new(store_server::StoreServer::new(Empty))));
    assert!(run(client.put(Blob::default())).is_ok());
    let error = run(client.list(Blob::default())).unwrap_err();
    assert_eq!(error.0, "/settings.Store/List is not implemented");
}
