package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// keys is the cluster's own CA; what it signs lies in the folder as NAME.crt and NAME.key.
type keys struct {
	folder string
	key    *ecdsa.PrivateKey
	ca     *x509.Certificate
	serial int64
}

func newKeys(folder string) *keys {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	own := &keys{folder: folder, key: key}
	template := own.template(pkix.Name{CommonName: "cluster"})
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(err)
	own.ca, err = x509.ParseCertificate(der)
	check(err)
	own.write("ca.crt", "CERTIFICATE", der)
	own.sign("server", pkix.Name{CommonName: "kube-apiserver"})
	own.sign("admin", pkix.Name{CommonName: "certified", Organization: []string{"system:masters"}})
	return own
}

func (own *keys) template(subject pkix.Name) *x509.Certificate {
	own.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(own.serial),
		Subject:      subject,
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
}

func (own *keys) sign(name string, subject pkix.Name) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := own.template(subject)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	template.DNSNames = []string{"cluster.test", "localhost"}
	der, err := x509.CreateCertificate(rand.Reader, template, own.ca, &key.PublicKey, own.key)
	check(err)
	own.write(name+".crt", "CERTIFICATE", der)
	private, err := x509.MarshalECPrivateKey(key)
	check(err)
	own.write(name+".key", "EC PRIVATE KEY", private)
}

func (own *keys) write(name, kind string, der []byte) {
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	check(os.WriteFile(filepath.Join(own.folder, name), text, 0o600))
}

func (own *keys) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(own.ca)
	return pool
}
