package dev.fanout.client;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.ArrayList;
import java.util.List;

/** A TCP relay to a server. {@link #cut} breaks the connections there are; later ones work. */
final class Wire implements AutoCloseable {
    private final ServerSocket listener;
    private final InetSocketAddress server;
    /** Both ends of each connection. The monitor guards it. */
    private final List<Socket> ends = new ArrayList<>();
    private boolean isClosed;

    /** @param server HOST:PORT */
    Wire(String server) {
        int colon = server.lastIndexOf(':');
        this.server = new InetSocketAddress(server.substring(0, colon), Integer.parseInt(server.substring(colon + 1)));
        try {
            listener = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        begin(this::accept);
    }

    /** Where it listens: HOST:PORT. */
    String address() {
        return listener.getInetAddress().getHostAddress() + ":" + listener.getLocalPort();
    }

    /** Breaks the connections there are. */
    synchronized void cut() {
        ends.forEach(Wire::closeEnd);
        ends.clear();
    }

    @Override
    public synchronized void close() {
        isClosed = true;
        try {
            listener.close();
        } catch (IOException alreadyGone) {
            // It is closed.
        }
        cut();
    }

    private void accept() {
        while (true) {
            Socket toServer = new Socket();
            try {
                Socket toClient = listener.accept();
                connect(toClient, toServer);
                toServer.connect(server);
                begin(() -> relay(toClient, toServer));
                begin(() -> relay(toServer, toClient));
            } catch (IOException error) {
                if (listener.isClosed()) {
                    return;
                }
                cut();
            }
        }
    }

    private synchronized void connect(Socket toClient, Socket toServer) {
        ends.add(toClient);
        ends.add(toServer);
        if (isClosed) {
            cut();
        }
    }

    /** Passes on what comes until either end is closed; then it closes both. */
    private static void relay(Socket from, Socket to) {
        try {
            from.getInputStream().transferTo(to.getOutputStream());
        } catch (IOException cut) {
            // The other end is told below.
        }
        closeEnd(from);
        closeEnd(to);
    }

    private static void closeEnd(Socket end) {
        try {
            end.close();
        } catch (IOException alreadyGone) {
            // It is closed.
        }
    }

    private static void begin(Runnable work) {
        Thread thread = new Thread(work, "wire");
        thread.setDaemon(true);
        thread.start();
    }
}
