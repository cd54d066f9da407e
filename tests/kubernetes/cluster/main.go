// A Kubernetes cluster for tests: the real kube-apiserver with a real etcd in one process, and a
// node whose kubelet is the real streaming server (exec, attach, port-forward) over this machine's
// own processes.
//
// cluster FOLDER: prints one JSON object once it is ready, and ends when its standard input does.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

const (
	token      = "real-token-of-the-cluster"
	readyAfter = 90 * time.Second
)

func main() {
	log.SetFlags(log.Lmicroseconds)
	folder, err := filepath.Abs(os.Args[1])
	check(err)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	keys := newKeys(folder)
	store := startEtcd(folder)
	address := freeAddress()
	kubelet := startKubelet(folder, keys)
	go serve(folder, store, address)

	config := &rest.Config{
		Host:            "https://" + address,
		BearerToken:     token,
		TLSClientConfig: rest.TLSClientConfig{CAFile: filepath.Join(folder, "ca.crt")},
	}
	client, err := kubernetes.NewForConfig(config)
	check(err)
	awaitReady(client)
	check(runNode(client, kubelet))
	json.NewEncoder(os.Stdout).Encode(map[string]string{
		"server": config.Host, "token": token, "ca": config.CAFile,
		"cert": filepath.Join(folder, "admin.crt"), "key": filepath.Join(folder, "admin.key"),
	})
	select {}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

// startEtcd gives the address of its clients.
func startEtcd(folder string) string {
	config := embed.NewConfig()
	config.Dir = filepath.Join(folder, "etcd")
	config.LogLevel = "error"
	config.UnsafeNoFsync = true
	local, _ := url.Parse("http://127.0.0.1:0")
	config.ListenClientUrls, config.ListenPeerUrls = []url.URL{*local}, []url.URL{*local}
	config.AdvertiseClientUrls, config.AdvertisePeerUrls = []url.URL{*local}, []url.URL{*local}
	config.InitialCluster = config.InitialClusterFromName(config.Name)
	etcd, err := embed.StartEtcd(config)
	check(err)
	<-etcd.Server.ReadyNotify()
	return "http://" + etcd.Clients[0].Addr().String()
}

// freeAddress is a loopback port that was free: the API server takes no listener and no port 0.
func freeAddress() string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	defer listener.Close()
	return listener.Addr().String()
}

func serve(folder, store, address string) {
	in := func(name string) string { return filepath.Join(folder, name) }
	check(os.WriteFile(in("tokens.csv"), []byte(token+",admin,1,system:masters\n"), 0o600))
	_, port, _ := net.SplitHostPort(address)
	command := app.NewAPIServerCommand()
	command.SetArgs([]string{
		"--etcd-servers=" + store,
		"--bind-address=127.0.0.1",
		"--secure-port=" + port,
		"--tls-cert-file=" + in("server.crt"),
		"--tls-private-key-file=" + in("server.key"),
		"--client-ca-file=" + in("ca.crt"),
		"--token-auth-file=" + in("tokens.csv"),
		"--authorization-mode=RBAC",
		"--service-account-issuer=https://cluster.test",
		"--service-account-key-file=" + in("server.key"),
		"--service-account-signing-key-file=" + in("server.key"),
		"--service-cluster-ip-range=10.0.0.0/24",
		"--endpoint-reconciler-type=none",
		"--disable-admission-plugins=ServiceAccount",
		"--kubelet-client-certificate=" + in("admin.crt"),
		"--kubelet-client-key=" + in("admin.key"),
		"--kubelet-certificate-authority=" + in("ca.crt"),
		"--kubelet-preferred-address-types=InternalIP",
		"--cert-dir=" + folder,
	})
	log.Fatal("kube-apiserver ended: ", command.Execute())
}

func awaitReady(client *kubernetes.Clientset) {
	deadline := time.Now().Add(readyAfter)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error()
		if err == nil {
			_, err = client.CoreV1().Namespaces().Get(ctx, "default", metav1.GetOptions{})
		}
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			log.Fatal("the API server is not ready: ", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// path cuts /kind/namespace/pod/container, where the container may be missing.
func path(request *http.Request) (pod, container string) {
	parts := strings.Split(strings.Trim(request.URL.Path, "/"), "/")
	for len(parts) < 4 {
		parts = append(parts, "")
	}
	return fmt.Sprintf("%s/%s", parts[1], parts[2]), parts[3]
}
