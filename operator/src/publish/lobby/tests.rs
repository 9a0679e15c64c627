use super::*;

const LIMITS: ConnectionLimits =
    ConnectionLimits { connections: 8, strangers: 2, handshake: HANDSHAKE_LIMIT, idle: IDLE_LIMIT };

/// Time is paused: what is waited for longer never comes.
const PATIENCE: Duration = Duration::from_secs(60);

async fn enter(lobby: &Lobby) -> Arc<Visitor> {
    let enters = async { lobby.enter(lobby.permit().await).await };
    timeout(PATIENCE, enters).await.expect("there is room")
}

/// As the sweep does it.
fn sweep(lobby: &Lobby) {
    lobby.idle().close(Instant::now(), lobby.shared.limits.idle, usize::MAX);
}

fn waiting(lobby: &Lobby) -> usize {
    lobby.idle().waiting.len()
}

#[tokio::test(start_paused = true)]
async fn who_asks_and_who_is_identified_is_not_closed() {
    let lobby = Lobby::new(LIMITS);
    let (silent, asking) = (enter(&lobby).await, enter(&lobby).await);
    let mut visit = asking.ask();
    tokio::time::advance(IDLE_LIMIT).await;
    sweep(&lobby);
    assert_eq!((silent.close.is_cancelled(), asking.close.is_cancelled()), (true, false));
    visit.identified();
    tokio::time::advance(IDLE_LIMIT).await;
    sweep(&lobby);
    assert!(!asking.close.is_cancelled());
    drop(visit);
    tokio::time::advance(IDLE_LIMIT - Duration::from_millis(1)).await;
    sweep(&lobby);
    assert!(!asking.close.is_cancelled(), "its time begins with the end of its stream");
    tokio::time::advance(Duration::from_millis(1)).await;
    sweep(&lobby);
    assert!(asking.close.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn asking_again_and_again_gains_no_time() {
    let lobby = Lobby::new(LIMITS);
    let visitor = enter(&lobby).await;
    for _ in 0..10 {
        tokio::time::advance(IDLE_LIMIT / 10).await;
        drop(visitor.ask());
    }
    sweep(&lobby);
    assert!(visitor.close.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn the_longest_idle_stranger_makes_room_and_nobody_who_asks() {
    let lobby = Lobby::new(LIMITS);
    let (first, second) = (enter(&lobby).await, enter(&lobby).await);
    let _asks = first.ask();
    let third = tokio::spawn({
        let lobby = lobby.clone();
        async move { enter(&lobby).await }
    });
    timeout(PATIENCE, second.closed()).await.expect("it makes room");
    assert!(!third.is_finished(), "there is room when the connection has ended, not before");
    drop(second);
    third.await.expect("no panic");
    assert!(!first.close.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn proxies_are_no_strangers() {
    let lobby = Lobby::new(LIMITS);
    let mut proxies = Vec::new();
    for _ in 0..LIMITS.connections {
        let mut visit = enter(&lobby).await.ask();
        visit.identified();
        proxies.push(visit);
    }
    assert_eq!(lobby.shared.strangers.available_permits(), LIMITS.strangers);
    assert_eq!(lobby.shared.connections.available_permits(), 0);
    drop(proxies);
    assert_eq!(lobby.shared.connections.available_permits(), LIMITS.connections);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_remembered_of_a_connection_that_ended() {
    let lobby = Lobby::new(LIMITS);
    let visitor = enter(&lobby).await;
    let (one, two) = (visitor.ask(), visitor.ask());
    assert_eq!(waiting(&lobby), 0);
    drop(one);
    assert_eq!(waiting(&lobby), 0, "the other stream goes on");
    drop(two);
    assert_eq!(waiting(&lobby), 1);
    drop(visitor);
    assert_eq!(waiting(&lobby), 0);
    assert_eq!(lobby.shared.strangers.available_permits(), LIMITS.strangers);
}
