namespace rs echo

struct Msg {
    1: required binary data,
}

service Echo {
    Msg unary(1: Msg message),
}
